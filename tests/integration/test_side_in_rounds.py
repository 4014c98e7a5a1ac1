"""A simulation trains and judges models with what lies beside their LoRA."""

from pathlib import Path
from typing import Any

import pytest
from small_jobs import classify_table, labelled_rows

import fedloom
from fedloom.progress import Quiet
from fedloom.simulation.simulator import Run


def played(folder: Path, backbone: Path, strategy: str) -> Run:
    table: dict[str, Any] = {
        "rounds": 2,
        "clients_per_round": 6,
        "train": ["lora"],
        "backbone": {"name": str(backbone), "head_init": "normal"},
        "data": {"client": "client", "split": "split"},
        "adapter": {"name": "lora", "rank": 2, "alpha": 40.0, "side": 24},
        "local": {"lr": 2.0, "steps": 2},
        "strategy": {"name": strategy},
        "run": {"directory": str(folder / strategy), "workers": 1},
    }
    return fedloom.simulate(table, data=labelled_rows(), observer=Quiet())


# After a round B is zero again: all that was learned lies beside the pair, which began empty.
def test_what_flora_stacks_is_judged_in_the_next_breath(
    text_model: dict[str, Path], tmp_path: Path
) -> None:
    loss = played(tmp_path, text_model["classify"], "flora").history["evaluation.loss"]
    assert abs(loss[1] - loss[0]) > 1e-6
    assert abs(loss[2] - loss[1]) > 1e-6


# The first round's covariance is there when the second round's clients start.
def test_clients_start_from_the_side_car(text_model: dict[str, Path], tmp_path: Path) -> None:
    backbone = text_model["classify"]
    exact, plain = (played(tmp_path, backbone, name) for name in ("fedex-lora", "fedit"))
    first, second = (
        [run.history[f"{name}"][number] for run in (exact, plain)]
        for name, number in (("loss", 1), ("loss", 2))
    )
    assert first[0] == pytest.approx(first[1], rel=1e-6)
    assert abs(second[0] - second[1]) > 1e-6


# The curve is of the whole model, of what the server puts beside what trains, too.
@pytest.mark.parametrize("strategy", ["fedex-lora", "flora"])
def test_the_last_evaluation_is_that_of_the_last_model(
    strategy: str, text_model: dict[str, Path], tmp_path: Path
) -> None:
    table = classify_table(text_model["classify"], strategy=strategy)
    table["adapter"]["side"] = 8
    table["evaluate"] = {"split": "test", "every": 1}
    table["stages"] = [{"rounds": 3, "clients_per_round": 6, "local": {"lr": 0.5}}]
    table["run"]["directory"] = str(tmp_path)
    run = fedloom.simulate(table, data=labelled_rows(), observer=Quiet())
    last = {name: run.history[f"evaluation.{name}"][-1] for name in run.summary.after}
    assert last == run.summary.after
