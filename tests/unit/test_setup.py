"""What a server makes of a job with a tiny model."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_jobs import WORDS, classify_table, labelled_rows, write_rows

from fedloom.core.errors import ConfigError, DataError
from fedloom.core.job import Job, job_from
from fedloom.core.layout import ALL
from fedloom.core.split import SplitConfig
from fedloom.server.setup import plan_of

CLASSES = sorted(WORDS)


def silent(_: str) -> None:
    pass


def job_of(text_model: dict[str, Path], tmp_path: Path, path: str = "", **data: Any) -> Job:
    table = classify_table(text_model["classify"], path)
    table["data"].update(data)
    table["server"] = {"directory": str(tmp_path / "state")}
    return job_from(table)


def test_without_data_the_server_only_knows_the_model(
    text_model: dict[str, Path], tmp_path: Path
) -> None:
    plan = plan_of(job_of(text_model, tmp_path, classes=CLASSES), silent)
    assert (plan.judging, plan.classes) == (None, tuple(CLASSES))
    assert set(plan.files) == {"config.json", "model.safetensors", "tokenizer.json"}
    assert plan.finishing is not None
    assert plan.finishing(plan.start, tmp_path / "adapter") == {}
    assert json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["r"] == 4


def test_with_data_it_evaluates(text_model: dict[str, Path], tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", labelled_rows(96))
    plan = plan_of(job_of(text_model, tmp_path, str(rows)), silent)
    assert plan.classes == tuple(CLASSES)
    assert plan.judging is not None
    assert plan.finishing is not None
    judged = [plan.judging(index, plan.start)(plan.start) for index in (0, 1)]
    whole = plan.finishing(plan.start, tmp_path / "adapter")
    # the curve is on the test split, so that the ways to the first model's numbers agree
    for found in judged:
        assert found["accuracy"] == whole["accuracy"]
        assert found["loss"] == pytest.approx(whole["loss"], rel=1e-5)
    # and the first model is the one that every device makes by itself
    again = plan_of(job_of(text_model, tmp_path, classes=CLASSES), silent)
    np.testing.assert_array_equal(plan.start.vector, again.start.vector)
    assert plan.start.layout.select(ALL).digest == again.start.layout.digest


def test_what_cannot_be_served(text_model: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.classes = \[\]: a server without data\.path"):
        plan_of(job_of(text_model, tmp_path), silent)
    train = [row for row in labelled_rows(96) if row["split"] == "train"]
    rows = write_rows(tmp_path / "rows.jsonl", train)
    with pytest.raises(DataError, match="no test examples"):
        plan_of(job_of(text_model, tmp_path, str(rows)), silent)


def test_split_models_are_simulated_only(text_model: dict[str, Path], tmp_path: Path) -> None:
    job = job_of(text_model, tmp_path, classes=CLASSES)
    split = dataclasses.replace(job, split=SplitConfig("v1"))
    with pytest.raises(ConfigError, match=r"split.mode = 'v1': simulations only"):
        plan_of(split, silent)
