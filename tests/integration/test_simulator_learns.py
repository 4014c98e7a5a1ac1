"""Whole runs on tiny models: every adapter lowers the loss."""

from pathlib import Path

import pytest
from small_jobs import classify_table, labelled_rows

import fedloom
from fedloom.progress import Quiet

ADAPTERS = {
    "lora": {"rank": 4},
    "ia3": {},
    "bitfit": {},
    "bottleneck": {"width": 8},
    "head": {},
}


@pytest.mark.parametrize("name", ADAPTERS)
def test_head_and_then_an_adapter_lower_the_loss(
    name: str, text_model: dict[str, Path], tmp_path: Path
) -> None:
    table = classify_table(text_model["classify"], "", adapter={"name": name, **ADAPTERS[name]})
    table["run"]["directory"] = str(tmp_path)
    run = fedloom.simulate(table, data=labelled_rows(), observer=Quiet())
    loss = run.history["evaluation.loss"]
    print(name, loss, run.history["evaluation.accuracy"])
