import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from synthetic_run import synthetic_run

from fedloom.core.errors import RunError
from fedloom.record import Record, StageSpan


def test_a_finished_run(tmp_path: Path) -> None:
    record = Record.read(synthetic_run(tmp_path / "a").path)
    assert (record.name, record.state, record.metric) == ("a", "finished", "accuracy")
    assert (record.done, record.rounds) == (24, 24)
    assert record.stages == (StageSpan("warm-up", 1, 4), StageSpan("train", 5, 24))
    assert record.before["accuracy"] == 0.03
    assert record.references["central"] == {"accuracy": 0.905}


def test_an_unfinished_run_is_as_far_as_its_rounds_say(tmp_path: Path) -> None:
    record = Record.read(synthetic_run(tmp_path / "a", done=9).path)
    assert record.state == "unfinished after round 9 of 24"
    assert record.before["accuracy"] == pytest.approx(0.03)  # from round 0
    assert record.after == list(record.history)[8].evaluation  # of round 8, the last evaluated
    assert record.references == {}


def test_a_run_before_its_first_round(tmp_path: Path) -> None:
    record = Record.read(synthetic_run(tmp_path / "a", done=-1).path)
    assert (record.metric, record.done, dict(record.after)) == ("", 0, {})
    assert math.isnan(record.best())


def test_curves_hold_the_rounds_that_have_both_values(tmp_path: Path) -> None:
    record = Record.read(synthetic_run(tmp_path / "a", done=9).path)
    rounds, accuracy = record.curve("round", "evaluation.accuracy")
    np.testing.assert_array_equal(rounds, [0, 2, 4, 6, 8])
    assert record.best() == accuracy.max()
    assert len(record.curve("round", "evaluation.perplexity")[0]) == 0


def test_bytes_go_both_ways(tmp_path: Path) -> None:
    record = Record.read(synthetic_run(tmp_path / "a", done=2).path)
    np.testing.assert_array_equal(record.total_bytes(), [0, 11_800_000, 23_600_000])


def test_a_folder_without_a_run(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no run here"):
        Record.read(tmp_path)


def test_a_stage_that_ended_early_has_the_rounds_that_it_played(tmp_path: Path) -> None:
    record = Record.read(synthetic_run(tmp_path / "a").path)
    config = {
        **record.config,
        "stages": [{"name": "warm-up", "rounds": 9}, record.config["stages"][1]],
    }
    assert replace(record, config=config).stages == record.stages
