"""FedPepTAO in the simulator: what travels, what is remembered of whom, and runs that go on."""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file
from small_jobs import classify_table, labelled_rows, numbers_of, tensors_of

import fedloom
from fedloom.core.errors import RunError
from fedloom.progress import Quiet
from fedloom.results.observe import Observer, RoundLine
from fedloom.simulation.simulator import Run

DATA = labelled_rows(240, clients=12)
STAGE = {
    "rounds": 3,
    "clients_per_round": 4,
    "train": ["prefix", "head"],
    "keep": ["layer.0"],
    "strategy": {"name": "fedpeptao", "lr": 0.02},
    "local": {"optimizer": "adamw", "lr": 0.02, "batch_size": 8},
}


class StopsAfter(Quiet):
    """An observer that presses Ctrl-C when a round is over."""

    def __init__(self, round: int) -> None:
        self._round = round

    def round_done(self, line: RoundLine) -> None:
        if line.round == self._round:
            raise KeyboardInterrupt


def table(models: dict[str, Path], folder: Path, **run: Any) -> dict[str, Any]:
    """Two stages of three rounds, of four of twelve clients."""
    made = classify_table(models["classify"])
    made["adapter"] = {"name": "prefix", "tokens": 3}
    made["stages"] = [{**STAGE, "name": "one"}, {**STAGE, "name": "two"}]
    made["run"] |= {"directory": str(folder), **run}
    return made


def simulated(made: dict[str, Any], observer: Observer | None = None) -> Run:
    return fedloom.simulate(made, data=DATA, observer=observer or Quiet(), resume=True)


def remembered(folder: Path) -> list[tuple[str, int, bytes]]:
    """The newest record of each client in each stage, and its round."""
    found = []
    for path in sorted((folder / "remembered").glob("stage-*.sqlite")):
        newest = "SELECT client, max(round), tensors FROM kept GROUP BY client"
        with closing(sqlite3.connect(path)) as file:
            found += file.execute(newest).fetchall()
    return found


def test_what_is_remembered_of_clients_is_of_all_that_they_send(
    text_model: dict[str, Path], tmp_path: Path
) -> None:
    run = simulated(table(text_model, tmp_path / "run"))
    layout = run.params.layout
    kept = layout.select(("layer.0",)).size
    found = remembered(tmp_path / "run")
    assert {len(tensors) for _, _, tensors in found} == {4 * (layout.size - kept)}
    assert [number for _, number, _ in found if number <= 3]
    assert [number for _, number, _ in found if number > 3]  # each stage begins anew
    assert len({tensors for _, _, tensors in found}) == len(found)
    # Nothing travels for it: the tensors that are shared, and the frame around them.
    for way in ("bytes_up", "bytes_down"):
        of_a_client = max(run.history[way]) / 4
        assert 0 < of_a_client - 4 * (layout.size - kept) < 100
    # Nor does a checkpoint grow with the clients.
    newest = sorted((tmp_path / "run" / "checkpoints").iterdir())[-1]
    assert set(load_file(newest)) == {"params", "slot/c", "slot/m"}


@pytest.mark.parametrize("every", [1, 2])
def test_a_run_interrupted_again_and_again_remembers_the_same(
    every: int, text_model: dict[str, Path], tmp_path: Path
) -> None:
    whole, torn = tmp_path / "whole", tmp_path / "torn"
    simulated(table(text_model, whole))
    made = table(text_model, torn, checkpoint_every=every)
    for stop in (0, 1, 3, 5):
        assert simulated(made, StopsAfter(stop)).summary.interrupted
    simulated(made)
    assert remembered(torn) == remembered(whole)
    assert numbers_of(torn) == numbers_of(whole)
    assert tensors_of(torn) == tensors_of(whole)


def test_workers_make_no_difference(text_model: dict[str, Path], tmp_path: Path) -> None:
    one, four = tmp_path / "one", tmp_path / "four"
    simulated(table(text_model, one))
    simulated(table(text_model, four, workers=4))
    assert remembered(one) == remembered(four)
    assert tensors_of(one) == tensors_of(four)


def test_records_that_are_lost_are_told(text_model: dict[str, Path], tmp_path: Path) -> None:
    made = table(text_model, tmp_path / "run")
    simulated(made, StopsAfter(2))
    (tmp_path / "run" / "remembered" / "stage-0.sqlite").unlink()
    with pytest.raises(RunError, match=r"stage-0.sqlite: no such file; what there was of each"):
        simulated(made)
