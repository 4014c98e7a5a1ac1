"""A live federation whose far blocks are served by stages, one of which is killed on the way."""

from pathlib import Path

import pytest
from live_processes import Fleet, era_rows, free_ports, table_of
from stage_process import stages
from waiting import until

CLIENTS, ROUNDS = 2, 3
STAGE = {
    "name": "frozen",
    "rounds": ROUNDS,
    "clients_per_round": CLIENTS,
    "local": {"optimizer": "adamw", "lr": 0.02, "batch_size": 4, "steps": 3},
}
ADAPTER = {"name": "lora", "rank": 4, "layers": [0, 2]}


def test_the_simulators_bits_through_stages(text_model: dict[str, Path], tmp_path: Path) -> None:
    backbone, ports = text_model["classify"], free_ports()
    addresses = [f"127.0.0.1:{port}" for port in ports]
    split = {"mode": "frozen", "bottom": 1, "top": 1, "stages": addresses}
    table = table_of(backbone, CLIENTS, stages=[STAGE], split=split, adapter=ADAPTER)
    with Fleet.of(tmp_path, table, era_rows(CLIENTS)) as fleet:
        fleet.serve()
        words = ("--in", str(fleet.state), "--port")
        each = [(backbone, b, *words, str(p)) for b, p in zip(("0-3", "1-2"), ports, strict=True)]
        with stages(*each) as running:
            for client in fleet.clients:
                fleet.join(client)
            until(lambda: len(fleet.lines()) >= 1, "the first round")
            running[0].process.kill()
            fleet.finish()
        logs = fleet.logs()
        assert "serves blocks 1 to 2 in 32 bits" in logs, logs
    fleet.compare()


def test_a_frozen_job_without_stages(text_model: dict[str, Path], tmp_path: Path) -> None:
    split = {"mode": "frozen", "bottom": 1, "top": 1}
    table = table_of(text_model["classify"], CLIENTS, stages=[STAGE], split=split, adapter=ADAPTER)
    with Fleet.of(tmp_path, table, era_rows(CLIENTS)) as fleet, pytest.raises(AssertionError):
        fleet.serve()
    assert "split.stages = []" in (tmp_path / "server.err").read_text()
