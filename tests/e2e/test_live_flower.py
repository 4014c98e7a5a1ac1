"""A strategy of Flower's on the live server, which is killed in a round: the simulator's bits."""

import signal
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("flwr")

from live_processes import Fleet, era_rows, table_of, tensors
from small_jobs import tensors_of

from fedloom import simulate
from fedloom.progress import Quiet

STAGES: list[dict[str, Any]] = [
    {
        "name": "adapter",
        "rounds": 3,
        "clients_per_round": 4,
        "local": {"optimizer": "adamw", "lr": 0.01, "batch_size": 8},
        "strategy": {"name": "flwr:FedAdam", "eta": 0.01, "fraction_train": 0.75},
    },
]


def test_a_killed_server_goes_on_with_flowers_adam(
    text_model: dict[str, Path], tmp_path: Path
) -> None:
    table = table_of(text_model["classify"], 4, stages=STAGES, codec_up="int8")
    with Fleet.of(tmp_path, table, era_rows(4)) as fleet:
        fleet.serve(failpoint="update-announced:5")  # 3 of round 1, 2 of round 2
        for client in fleet.clients:
            fleet.join(client)
        assert fleet.ended() == -signal.SIGKILL
        assert fleet.under_way() == 2
        fleet.serve()
        assert fleet.ended() == 0
    settings = {"run.directory": tmp_path / "simulated"}
    simulate(tmp_path / "job.toml", settings=settings, observer=Quiet())

    assert [line["accepted"] for line in fleet.lines()] == [0, 3, 3, 3]
    assert fleet.lines() == fleet.lines("simulated")
    assert tensors(tmp_path / "live") == tensors(tmp_path / "simulated")
    assert tensors_of(tmp_path / "live") == tensors_of(tmp_path / "simulated")
