"""The curve is of the whole model: of what the server puts beside what trains, too."""

from pathlib import Path

import pytest
from small_jobs import classify_table, labelled_rows

import fedloom
from fedloom.progress import Quiet


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
