import random
from typing import Any

import numpy as np
import pytest

pytest.importorskip("flwr")

from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord

from fedloom.strategies.flower.attributes import Attributes, Written


class Inner:
    def __init__(self) -> None:
        self.momentum: Any = None


class Outer:
    def __init__(self) -> None:
        self.inner, self.rule, self.count, self.known = Inner(), max, 0, {"a": (1, 2.5, None)}


def test_everything_of_a_known_kind_comes_back() -> None:
    one, two = Outer(), Outer()
    ours, theirs = Attributes(one, Inner), Attributes(two, Inner)
    array = np.arange(6, dtype=np.float64).reshape(2, 3)
    one.inner.momentum = [array, np.float32(0.5), b"\x00\xff", frozenset({3}), float("inf")]
    one.known = {7: {"x", "y"}, "b": [True]}  # type: ignore[dict-item]
    one.records = ArrayRecord({"w": Array(array)}), MetricRecord({"m": 1.5}), ConfigRecord()  # type: ignore[attr-defined]
    one.draw, one.noise = random.Random(4), np.random.default_rng(4)  # type: ignore[attr-defined]
    one.draw.random()  # type: ignore[attr-defined]
    found = ours.written()

    theirs.put_back(found.text, found.slots)

    assert found.unsaved == ()
    again: Any = two
    np.testing.assert_array_equal(again.inner.momentum[0], array)
    assert again.inner.momentum[1:] == [0.5, b"\x00\xff", frozenset({3}), float("inf")]
    assert type(again.inner.momentum[1]) is np.float32
    assert again.known == {7: {"x", "y"}, "b": [True]}
    np.testing.assert_array_equal(again.records[0]["w"].numpy(), array)
    assert again.records[1:] == (MetricRecord({"m": 1.5}), ConfigRecord())
    assert again.draw.random() == one.draw.random()  # type: ignore[attr-defined]
    assert again.noise.random() == one.noise.random()  # type: ignore[attr-defined]
    assert theirs.written().text == ours.written().text or again.rule is max


def test_nothing_is_written_yet_means_as_it_was_made() -> None:
    one = Outer()
    ours = Attributes(one, Inner)
    one.count, one.inner.momentum, one.extra = 3, np.ones(2), 1  # type: ignore[attr-defined]

    ours.put_back("", {})

    assert (one.count, one.inner.momentum, hasattr(one, "extra")) == (0, None, False)


def test_what_cannot_be_written_is_named() -> None:
    one = Outer()
    ours = Attributes(one, Inner)
    assert ours.written().unsaved == ()  # a function that stays is a setting
    one.rule = min
    one.inner.momentum = [object()]

    assert ours.written().unsaved == ("inner.momentum (list)", "rule (builtin_function_or_method)")
    assert Written().slots == {}
