import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest

from fedloom.core.errors import ConfigError, RunError
from fedloom.core.types import Refusal
from fedloom.results.history import History, json_values, line_from_json, line_to_json
from fedloom.results.observe import RoundLine

LINE = RoundLine(
    3,
    "warm-up",
    accepted=9,
    refused=1,
    loss=0.5,
    metrics={"grad_norm": 2.0},
    evaluation={"accuracy": 0.25},
    bytes_up=10,
    refusals=(Refusal("c7", "NaN in its delta"),),
)
HISTORY = History(
    [
        RoundLine(1, loss=2.0),
        RoundLine(2, loss=1.5, evaluation={"accuracy": 0.75, "loss": 1.0}),
        RoundLine(3, loss=1.75, evaluation={"accuracy": 0.5, "loss": 0.5}),
    ]
)


def test_a_line_comes_back_from_json_as_it_was() -> None:
    assert line_from_json(line_to_json(LINE)) == LINE


def test_what_json_cannot_say_becomes_null_and_comes_back_as_nan() -> None:
    text = line_to_json(RoundLine(1, loss=math.inf, metrics={"norm": math.nan}))
    assert json.loads(text)["loss"] is None
    back = line_from_json(text)
    assert math.isnan(back.loss)
    assert math.isnan(back.metrics["norm"])


def test_keys_of_a_later_version_are_left_out() -> None:
    table = {**json.loads(line_to_json(LINE)), "new_key": 1}
    assert line_from_json(json.dumps(table)) == LINE


def test_json_values_are_plain() -> None:
    value = {"path": Path("a/b"), "number": np.float32(0.5), "nan": np.float64("nan"), "t": (1,)}
    assert json_values(value) == {"path": "a/b", "number": 0.5, "nan": None, "t": [1]}


def test_columns_are_numpy_arrays_with_nan_where_a_round_has_no_value() -> None:
    np.testing.assert_array_equal(HISTORY["round"], [1, 2, 3])
    np.testing.assert_array_equal(HISTORY["evaluation.accuracy"], [math.nan, 0.75, 0.5])
    assert "evaluation.loss" in HISTORY.columns
    assert "refusals" not in HISTORY.columns


def test_an_unknown_column_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"no column 'accuracy'.*evaluation\.accuracy"):
        HISTORY["accuracy"]


def test_rows_have_the_same_keys() -> None:
    rows = HISTORY.rows()
    assert [row["loss"] for row in rows] == [2.0, 1.5, 1.75]
    assert {tuple(row) for row in rows} == {HISTORY.columns}


def test_to_pandas_says_when_pandas_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(RunError, match=r"needs pandas.*history\.rows\(\)"):
        HISTORY.to_pandas()


@pytest.mark.parametrize(
    ("column", "round"), [("evaluation.accuracy", 2), ("evaluation.loss", 3), ("loss", 2)]
)
def test_best_is_most_accurate_or_least_loss(column: str, round: int) -> None:
    best = HISTORY.best(column)
    assert best is not None
    assert best.round == round


def test_best_of_nothing_is_none() -> None:
    assert History([RoundLine(1)]).best("loss") is None


def test_last_until_len_and_iteration() -> None:
    assert HISTORY.last == list(HISTORY)[-1]
    assert History().last is None
    assert [line.round for line in HISTORY.until(2)] == [1, 2]
    assert len(HISTORY) == 3


def test_repr_is_a_small_table() -> None:
    text = repr(HISTORY)
    assert text.splitlines()[0] == "History of 3 rounds"
    assert "accuracy" in text.splitlines()[1]
    assert "0.7500" in text
    assert repr(History()) == "History of 0 rounds"


def test_repr_of_a_long_run_shows_its_end() -> None:
    rows = repr(History(RoundLine(n) for n in range(1, 101))).splitlines()
    assert len(rows) == 2 + 1 + 10
    assert rows[2] == "..."
    assert rows[-1].split()[0] == "100"


def test_a_torn_last_line_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(line_to_json(RoundLine(1)) + "\n" + line_to_json(RoundLine(2))[:20])
    assert [line.round for line in History.read(path)] == [1]


def test_a_damaged_line_before_the_last_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text("[1]\n" + line_to_json(RoundLine(2)) + "\n")
    with pytest.raises(RunError, match=r"metrics\.jsonl, line 1: not a round"):
        History.read(path)


def test_no_file_is_no_rounds(tmp_path: Path) -> None:
    assert len(History.read(tmp_path / "metrics.jsonl")) == 0
