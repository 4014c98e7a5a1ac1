"""What a server makes of a job with a tiny model."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file
from small_jobs import WORDS, classify_table, labelled_rows, write_rows

from fedloom.core.errors import ConfigError, DataError
from fedloom.core.job import Job, job_from
from fedloom.core.layout import ALL
from fedloom.core.registry import Component
from fedloom.core.split import SplitConfig
from fedloom.core.types import ClientTask
from fedloom.server.plan import Finished
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
    assert plan.finishing(plan.start, tmp_path / "adapter") == Finished()
    assert json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["r"] == 4


def test_with_data_it_evaluates(text_model: dict[str, Path], tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", labelled_rows(96))
    plan = plan_of(job_of(text_model, tmp_path, str(rows)), silent)
    assert plan.classes == tuple(CLASSES)
    assert plan.judging is not None
    assert plan.finishing is not None
    judged = [plan.judging(index, plan.start)(plan.start) for index in (0, 1)]
    whole = plan.finishing(plan.start, tmp_path / "adapter").test
    # the curve is on the test split, so that the ways to the first model's numbers agree
    for found in judged:
        assert found["accuracy"] == whole["accuracy"]
        assert found["loss"] == pytest.approx(whole["loss"], rel=1e-5)
    # and the first model is the one that every device makes by itself
    again = plan_of(job_of(text_model, tmp_path, classes=CLASSES), silent)
    np.testing.assert_array_equal(plan.start.vector, again.start.vector)
    assert plan.start.layout.select(ALL).digest == again.start.layout.digest


def test_a_stage_ends_by_evaluations_that_somebody_makes(
    text_model: dict[str, Path], tmp_path: Path
) -> None:
    job = job_of(text_model, tmp_path, classes=CLASSES)
    patient = tuple(dataclasses.replace(stage, patience=3) for stage in job.stages)
    job = dataclasses.replace(job, stages=patient)
    with pytest.raises(ConfigError, match=r"patience = 3 in the stage .*: 0, or data.path or"):
        plan_of(job, silent)
    asking = dataclasses.replace(job.server, evaluate_clients=2)
    assert plan_of(dataclasses.replace(job, server=asking), silent).judging is None


def test_a_live_federation_has_no_attackers(text_model: dict[str, Path], tmp_path: Path) -> None:
    job = job_of(text_model, tmp_path, classes=CLASSES)
    job = dataclasses.replace(job, attack=Component("alie"))
    with pytest.raises(ConfigError, match="attack = 'alie': only simulated clients attack"):
        plan_of(job, silent)


def test_what_cannot_be_served(text_model: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.classes = \[\]: a server without data\.path"):
        plan_of(job_of(text_model, tmp_path), silent)
    train = [row for row in labelled_rows(96) if row["split"] == "train"]
    rows = write_rows(tmp_path / "rows.jsonl", train)
    with pytest.raises(DataError, match="no test examples"):
        plan_of(job_of(text_model, tmp_path, str(rows)), silent)


LIVE: list[tuple[dict[str, Any], str]] = [
    ({"server": {"evaluate_clients": 2}}, "server.evaluate_clients = 2: clients hold a part"),
    ({"split": {"mode": "frozen"}}, r"split.stages = \[\]: split.mode = 'frozen' needs stages"),
    (
        {"split": {"mode": "sequential"}},
        "clients_per_round = 6: split.mode = 'sequential': live clients take turns by rounds",
    ),
    ({"split": {"bottom": 2}}, "2 blocks below and 1 above leave none of 3"),
    ({"learner": {"name": "forward-gradient"}}, "learner = 'forward-gradient': a split model"),
]


@pytest.mark.parametrize(("changes", "text"), LIVE)
def test_what_a_live_split_cannot_have(
    text_model: dict[str, Path], tmp_path: Path, changes: dict[str, Any], text: str
) -> None:
    changes = dict(changes)
    table = classify_table(text_model["classify"])
    table["data"]["classes"] = CLASSES
    table["split"] = {"mode": "v1", "bottom": 1} | changes.pop("split", {})
    table["server"] = {"directory": str(tmp_path / "state")} | changes.pop("server", {})
    with pytest.raises(ConfigError, match=text):
        plan_of(job_from(table | changes), silent)


def test_devices_fetch_what_they_hold_of_a_split_model(
    text_model: dict[str, Path], tmp_path: Path
) -> None:
    job, notes = job_of(text_model, tmp_path, classes=CLASSES), list[str]()
    split = SplitConfig("v1", bottom=1)
    plan = plan_of(dataclasses.replace(job, split=split), notes.append)
    names = load_file(plan.files["model.safetensors"])
    assert {n.split("layer.")[1][0] for n in names if "layer." in n} == {"0", "2"}
    assert plan.split is not None
    assert (plan.split.hosted, plan.split.shared, plan.split.mode) == (True, False, "v1")
    down = {spec.block for spec in plan.split.down(plan.start.layout)}
    assert down == {"layer.0", "layer.2", "head"}
    assert any("split.bottom = 1" in note for note in notes)


def test_clients_with_fewer_blocks_send_fewer_tensors(
    text_model: dict[str, Path], tmp_path: Path
) -> None:
    job = job_of(text_model, tmp_path, classes=CLASSES)
    wide, own = SplitConfig("v1", bottom=1), SplitConfig("v1", bottom=0, most_bottom=1)
    plans = [plan_of(dataclasses.replace(job, split=each), silent) for each in (wide, own)]
    assert plans[0].files == plans[1].files  # the same blocks are at home at most
    split, layout, task = plans[1].split, plans[1].start.layout, ClientTask("ann", 1, 0)
    assert split is not None
    assert {spec.block for spec in split.up(task, layout)} == {"layer.2", "head"}
    more = dataclasses.replace(task, bottom=1)
    assert split.up(more, layout) == split.down(layout)


def test_one_client_a_round_has_far_tensors_of_its_own(
    text_model: dict[str, Path], tmp_path: Path
) -> None:
    job = job_of(text_model, tmp_path, classes=CLASSES)
    alone = tuple(dataclasses.replace(stage, clients_per_round=1) for stage in job.stages)
    split = SplitConfig("sequential", bottom=1)
    plan = plan_of(dataclasses.replace(job, split=split, stages=alone), silent)
    assert plan.split is not None
    assert (plan.split.mode, plan.split.shared) == ("v1", False)
