from typing import Any

import numpy as np
import pytest

from fedloom.core.errors import ConfigError, DataError
from fedloom.core.job import DataConfig
from fedloom.tuning.splits import owners, split_rows
from fedloom.tuning.tables import Table


def table(**columns: Any) -> Table:
    count = len(next(iter(columns.values())))
    return Table("f.csv", columns, np.arange(2, 2 + count))


def test_a_split_column_is_followed() -> None:
    marks = ["train", "test", "Validation", "dev", " train "]
    splits = split_rows(table(text=list("abcde"), split=marks), DataConfig(split="split"), seed=0)
    assert splits.train.tolist() == [0, 4]
    assert splits.valid.tolist() == [2, 3]
    assert splits.test.tolist() == [1]


@pytest.mark.parametrize("marks", [np.array([0, 1, 0], np.uint8), [False, True, False]])
def test_a_split_column_may_mark_test_rows(marks: Any) -> None:
    splits = split_rows(table(text=list("abc"), split=marks), DataConfig(split="split"), seed=0)
    assert splits.train.tolist() == [0, 2]
    assert splits.test.tolist() == [1]


def test_without_a_split_column_a_tenth_is_held_out_by_content() -> None:
    texts = [f"text {number}" for number in range(2000)]
    splits = split_rows(table(text=texts), DataConfig(), seed=0)
    # binomial(2000, 0.1): mean 200, standard deviation 13.4; five of them
    assert abs(len(splits.test) - 200) < 67
    assert len(splits.valid) == 0
    assert sorted([*splits.train, *splits.test]) == list(range(2000))
    held = {texts[row] for row in splits.test}
    again = split_rows(table(text=texts[::-1]), DataConfig(), seed=5)
    assert {texts[::-1][row] for row in again.test} == held


def test_copies_of_an_example_stay_on_one_side() -> None:
    texts = [f"text {number % 50}" for number in range(200)]
    splits = split_rows(table(text=texts), DataConfig(), seed=0)
    assert not {texts[row] for row in splits.train} & {texts[row] for row in splits.test}


def test_a_handful_of_rows_still_has_one_to_test_on() -> None:
    assert len(split_rows(table(text=["a", "b", "c"]), DataConfig(), seed=0).test) == 1


def test_evaluation_splits_are_cut_by_a_seeded_choice() -> None:
    data = table(text=["x"] * 101, split=["train"] + ["test"] * 100)
    config = DataConfig(split="split", max_test=10)
    first, same, other = (split_rows(data, config, seed=seed).test.tolist() for seed in (1, 1, 2))
    assert first == same != other
    assert len(set(first)) == 10
    assert min(first) >= 1


def test_an_unknown_split_and_no_training_rows_are_explained() -> None:
    config = DataConfig(split="part")
    with pytest.raises(DataError, match=r"f\.csv, line 3: part = 'tset': expected train, valid"):
        split_rows(table(text=["a", "b"], part=["train", "tset"]), config, seed=0)
    with pytest.raises(DataError, match=r"f\.csv: no training rows among 1"):
        split_rows(table(text=["a"], part=["test"]), config, seed=0)


def test_owners_are_numbered_by_name() -> None:
    config = DataConfig(client="who")
    rows, codes, names = owners(table(who=["b", 7, "a", "b"]), np.array([0, 1, 3]), config)
    assert rows.tolist() == [0, 1, 3]
    assert names == ("7", "b")
    assert codes is not None
    assert codes.tolist() == [1, 0, 1]


def test_the_largest_clients_are_kept_and_cut() -> None:
    who = ["a", "b", "c", "b", "c", "c", "a", "d"]  # a 2, b 2, c 3, d 1
    config = DataConfig(client="who", max_clients=2, max_examples=2)
    rows, codes, names = owners(table(who=who), np.arange(8), config)
    assert names == ("a", "c")  # c is the largest; a and b tie, a comes first
    assert rows.tolist() == [0, 2, 4, 6]  # two of c's three, in file order
    assert codes is not None
    assert codes.tolist() == [0, 1, 1, 0]


def test_without_a_client_column_nobody_owns_the_rows() -> None:
    rows, codes, names = owners(table(text=["a"]), np.arange(1), DataConfig())
    assert (rows.tolist(), codes, names) == ([0], None, ())


@pytest.mark.parametrize("config", [DataConfig(max_clients=3), DataConfig(max_examples=3)])
def test_limits_on_clients_need_a_client_column(config: DataConfig) -> None:
    with pytest.raises(ConfigError, match=r"data\.max_(clients|examples) = 3: needs data\.client"):
        owners(table(text=["a"]), np.arange(1), config)


@pytest.mark.parametrize("value", [None, "", 1.5])
def test_a_training_row_without_a_client_is_refused(value: object) -> None:
    with pytest.raises(DataError, match=r"f\.csv, line 3: who = .*: expected the name of a client"):
        owners(table(who=["a", value]), np.arange(2), DataConfig(client="who"))
