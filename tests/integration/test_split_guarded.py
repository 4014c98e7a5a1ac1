"""Cohorts over a guarded far side: what they find, and that it repeats."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cohorts import CASES, Folders, Ragged, cohort, start
from small_jobs import classify_table, labelled_rows
from splits import ALL, Split, fused

import fedloom
from fedloom.core.cuts import CutTable
from fedloom.core.split import SplitConfig
from fedloom.core.types import LocalWork
from fedloom.progress import Quiet
from fedloom.results.observe import Observer
from fedloom.simulation.simulator import Run
from fedloom.tuning.cut import Cut
from fedloom.tuning.learners.backprop import Backprop
from fedloom.tuning.learning import NOTHING, LocalResult
from fedloom.tuning.split_training import SplitTraining

WORK = LocalWork(steps=3, batch_size=4, lr=0.05)
GUARD = SplitConfig("v1", 1, clip=1.0, clip_grad=0.01, noise=0.1)


def setting(folders: Folders, ragged: Ragged, name: str, above: int, labels: str) -> Split:
    """A model with one block below the far ones, and some above them."""
    case = CASES[name]
    model = fused(case, folders, torch.float32)
    cut = Cut(1, model.depth - above, labels)
    return Split(model, start(model), case.examples(ragged), cut)


def trained(split: Split, config: SplitConfig, *, apart: bool = False) -> list[LocalResult]:
    cut, table = split.cut, CutTable(split.cut.first, (), 0)
    training = SplitTraining(split.model, split.examples, cut, config, cut.first, table)
    groups = [[own] for own in cohort()] if apart else [cohort()]
    return [
        result
        for group in groups
        for result in training.train(Backprop(), split.params, ALL, WORK, group, NOTHING)
    ]


def moved(results: list[LocalResult]) -> list[np.ndarray[Any, np.dtype[np.float32]]]:
    found = []
    for result in results:
        assert result.far is not None
        found.append(np.concatenate((result.delta, result.far.dense().vector)))
    return found


@pytest.mark.parametrize("name", ["bert", "gpt2-lm", "vit"])
@pytest.mark.parametrize("labels", ["home", "far"])
def test_a_wide_guard_without_noise_changes_no_bit(
    model_folder: Folders, ragged: Ragged, name: str, labels: str
) -> None:
    split = setting(model_folder, ragged, name, 0, labels)
    config = SplitConfig("v1", 1, labels=labels)
    plain = moved(trained(split, config))
    wide = moved(trained(split, replace(config, clip=1e6, clip_grad=1e6)))
    for found, expected in zip(wide, plain, strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("above", [0, 1])
def test_clients_at_once_are_those_one_by_one(
    model_folder: Folders, ragged: Ragged, above: int
) -> None:
    split = setting(model_folder, ragged, "bert", above, "home")
    at_once, alone = moved(trained(split, GUARD)), moved(trained(split, GUARD, apart=True))
    plain = moved(trained(split, SplitConfig("v1", 1)))
    for found, expected, without in zip(at_once, alone, plain, strict=True):
        size = np.linalg.norm(expected)
        # A noisy number that lies between two steps of the grid may be rounded either way.
        assert np.linalg.norm(found - expected) < 1e-4 * size
        assert np.linalg.norm(found - without) > 1e-2 * size


def played(
    model: Path, folder: Path, split: dict[str, Any], observer: Observer | None = None
) -> Run:
    table = classify_table(model)
    local = {"optimizer": "adamw", "lr": 0.02, "batch_size": 4}
    table["stages"] = [{"rounds": 2, "clients_per_round": 3, "local": local}]
    table["run"] |= {"directory": str(folder), "cache_gb": 0.0}
    table["split"] = split
    return fedloom.simulate(table, data=labelled_rows(), observer=observer or Quiet())


@pytest.mark.parametrize("mode", ["v1", "v2", "concat", "sequential"])
def test_noise_of_a_simulation_repeats(
    text_model: dict[str, Path], tmp_path: Path, mode: str
) -> None:
    split = {"mode": mode, "bottom": 1, "top": 1, "clip": 1.0, "clip_grad": 0.01, "noise": 0.1}
    first, again = (played(text_model["classify"], tmp_path / name, split) for name in "ab")
    assert first.params.vector.tobytes() == again.params.vector.tobytes()
    other = played(text_model["classify"], tmp_path / "c", split | {"noise": 0.2})
    assert first.params.vector.tobytes() != other.params.vector.tobytes()
    loss = first.history["evaluation.loss"]
    assert np.isfinite(loss).all()


class Listening(Quiet):
    def __init__(self) -> None:
        self.notes = list[str]()

    def note(self, text: str) -> None:
        self.notes.append(text)


def test_what_a_cut_gives_away_is_said_once(text_model: dict[str, Path], tmp_path: Path) -> None:
    listening = Listening()
    split = {"mode": "v2", "bottom": 0, "top": 0}
    played(text_model["classify"], tmp_path / "run", split, listening)
    said = [note.partition(":")[0] for note in listening.notes if note.startswith("split")]
    assert said == ["split", "split.bottom = 0", "split.top = 0"]
