"""What must not change a bit: how many workers there are, and whether a run was interrupted."""

from pathlib import Path
from typing import Any

import pytest
import torch
from small_jobs import classify_table, labelled_rows, numbers_of, tensors_of

import fedloom
from fedloom.progress import Quiet
from fedloom.results.observe import RoundLine
from fedloom.tuning import prepare


def simulate(table: dict[str, Any], folder: Path, **run: Any) -> Path:
    table = {**table, "run": {**table["run"], "directory": str(folder), **run}}
    fedloom.simulate(table, data=labelled_rows(360, clients=30), observer=Quiet())
    return folder


@pytest.mark.parametrize("adapter", ["lora", "bottleneck"])
def test_any_number_of_workers_gives_the_same_bits(
    adapter: str, text_model: dict[str, Path], tmp_path: Path
) -> None:
    table = classify_table(text_model["classify"], adapter={"name": adapter})
    table["stages"] = [{**stage, "clients_per_round": 20} for stage in table["stages"]]

    one, two, four = (simulate(table, tmp_path / f"w{n}", workers=n) for n in (1, 2, 4))

    assert numbers_of(one) == numbers_of(two) == numbers_of(four)
    assert tensors_of(one) == tensors_of(two) == tensors_of(four)


def test_frozen_activations_kept_or_not_give_the_same_bits(
    text_model: dict[str, Path], tmp_path: Path
) -> None:
    table = classify_table(text_model["classify"], adapter={"name": "lora", "layers": [-1]})

    kept = simulate(table, tmp_path / "kept", cache_gb=0.1)
    computed = simulate(table, tmp_path / "computed", cache_gb=0.0, cache_disk_gb=0.0)

    assert tensors_of(kept) == tensors_of(computed)


class StopsAfter:
    """An observer that presses Ctrl-C when a round is over."""

    def __init__(self, round: int) -> None:
        self._round = round

    def started(self, info: object) -> None: ...

    def round_done(self, line: RoundLine) -> None:
        if line.round == self._round:
            raise KeyboardInterrupt

    def note(self, text: str) -> None: ...

    def finished(self, summary: object) -> None: ...


@pytest.mark.parametrize("every", [1, 3])
def test_a_run_interrupted_again_and_again_ends_in_the_same_bits(
    every: int, text_model: dict[str, Path], tmp_path: Path
) -> None:
    table = classify_table(text_model["classify"])
    whole = simulate(table, tmp_path / "whole")
    folder = tmp_path / "torn"
    table["run"] |= {"directory": str(folder), "checkpoint_every": every}
    data = labelled_rows(360, clients=30)

    for stop in (0, 2, 4, 8):  # before a round is done, in each stage, before the references
        run = fedloom.simulate(table, data=data, observer=StopsAfter(stop), resume=True)
        assert run.summary.interrupted
    run = fedloom.simulate(table, data=data, observer=Quiet(), resume=True)

    assert not run.summary.interrupted
    assert numbers_of(folder) == numbers_of(whole)
    assert tensors_of(folder) == tensors_of(whole)


def test_a_resumed_run_keeps_the_type_that_it_began_with(
    text_model: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = classify_table(text_model["classify"])
    table["backbone"]["dtype"] = "auto"
    data = labelled_rows(360, clients=30)
    monkeypatch.setattr(prepare, "best_dtype", lambda device: torch.bfloat16)
    whole = simulate(table, tmp_path / "whole")
    table["run"]["directory"] = str(tmp_path / "torn")
    fedloom.simulate(table, data=data, observer=StopsAfter(4))
    monkeypatch.setattr(prepare, "best_dtype", lambda device: torch.float32)

    fedloom.simulate(table, data=data, observer=Quiet(), resume=True)

    assert numbers_of(tmp_path / "torn") == numbers_of(whole)
    assert tensors_of(tmp_path / "torn") == tensors_of(whole)
