"""A live federation whose devices keep their heads: the simulator's bits, through kills."""

import sqlite3
from contextlib import closing
from pathlib import Path

from live_processes import Fleet, era_rows, table_of
from safetensors.numpy import load_file
from waiting import until

CLIENTS, ROUNDS = 2, 4
STAGE = {
    "name": "own",
    "rounds": ROUNDS,
    "clients_per_round": CLIENTS,
    "keep": ["head"],
    "local": {"optimizer": "adamw", "lr": 0.02, "batch_size": 4, "steps": 3},
}


def test_the_simulators_bits_with_heads_that_stay_at_home(
    text_model: dict[str, Path], tmp_path: Path
) -> None:
    table = table_of(text_model["classify"], CLIENTS, stages=[STAGE])
    with Fleet.of(tmp_path, table, era_rows(CLIENTS)) as fleet:
        fleet.begin()
        until(lambda: len(fleet.lines()) >= 2, "the first round")
        fleet.devices[fleet.clients[0]].kill()
        fleet.devices[fleet.clients[0]].wait(30)
        fleet.join(fleet.clients[0])
        fleet.finish()
    fleet.compare()
    simulated = last_kept(tmp_path / "simulated" / "personal" / "kept.sqlite")
    for number, client in enumerate(fleet.clients):
        name = f"round-{ROUNDS:06d}.safetensors"
        (path,) = (tmp_path / f"device{number}").rglob(f"personal/*/{name}")
        assert load_file(path)["params"].tobytes() == simulated[client]


def last_kept(path: Path) -> dict[str, bytes]:
    newest = "SELECT client, max(round), tensors FROM kept GROUP BY client"
    with closing(sqlite3.connect(path)) as file:
        return {client: tensors for client, _, tensors in file.execute(newest)}
