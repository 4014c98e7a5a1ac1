"""Whole runs on tiny models, in this process."""

from pathlib import Path
from typing import Any

import pytest
from small_jobs import causal_table, classify_table, labelled_rows

import fedloom
from fedloom.progress import Quiet

ADAPTERS: dict[str, dict[str, Any]] = {
    "lora": {"rank": 4},
    "ia3": {},
    "bitfit": {},
    "bottleneck": {"width": 8},
    "head": {},
}


@pytest.mark.parametrize("name", ADAPTERS)
def test_a_head_and_then_an_adapter_lower_the_loss(
    name: str, text_model: dict[str, Path], tmp_path: Path
) -> None:
    table = classify_table(text_model["classify"], adapter={"name": name, **ADAPTERS[name]})
    table["run"]["directory"] = str(tmp_path)

    run = fedloom.simulate(table, data=labelled_rows(), observer=Quiet())

    loss = run.history["evaluation.loss"]
    assert loss[-1] < loss[0] - 0.2  # of three classes: ln 3 = 1.10 before
    assert loss[-1] < loss[3]  # the second stage goes on from the first
    assert run.summary.after["accuracy"] > run.summary.before["accuracy"] + 0.2


def test_a_language_model_becomes_less_surprised(
    text_model: dict[str, Path], tmp_path: Path
) -> None:
    table = causal_table(text_model["causal-lm"])
    table["run"]["directory"] = str(tmp_path)

    run = fedloom.simulate(table, data=labelled_rows(96), observer=Quiet())

    before, after = run.summary.before["perplexity"], run.summary.after["perplexity"]
    assert after < 0.7 * before
