"""A split model over a live federation: what is far away survives a server that is killed.

A server and devices as processes of their own, over mutual TLS, to the simulator's bits.
"""

from pathlib import Path
from typing import Any

import pytest
from live_processes import Fleet, era_rows, table_of

CLIENTS, ROUNDS = 2, 2
STAGE: dict[str, Any] = {
    "name": "split",
    "rounds": ROUNDS,
    "clients_per_round": CLIENTS,
    "local": {"optimizer": "adamw", "lr": 0.02, "batch_size": 4, "steps": 3},
}
KILLS = {
    # In a session's second step; when a session is over, and what it came to written down.
    "home": ("leg-arrived:6", "session-closed"),
    # When a step is on the disk; while what moved far away joins the updates.
    "far": ("step-written:3", "far-joined"),
}


@pytest.mark.parametrize("labels", KILLS)
def test_the_simulators_bits_whenever_the_server_is_killed(
    text_model: dict[str, Path], tmp_path: Path, labels: str
) -> None:
    split = {"mode": "v1", "bottom": 1, "labels": labels, "codec_up": "int8"}
    table = table_of(text_model["classify"], CLIENTS, stages=[STAGE], split=split)
    with Fleet.of(tmp_path, table, era_rows(CLIENTS)) as fleet:
        fleet.play(*KILLS[labels])
        assert not (fleet.state / "split").exists()
        weights = sorted((tmp_path / "device0").rglob("model.safetensors"))
        whole = text_model["classify"] / "model.safetensors"
        assert 0 < weights[0].stat().st_size < whole.stat().st_size
    fleet.compare()
