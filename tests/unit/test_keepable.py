"""What a checkpoint and a history can hold of what a strategy returns."""

from typing import Any

import numpy as np
import pytest

from fedloom.core.layout import Layout, TensorSpec
from fedloom.core.types import Params, State
from fedloom.strategies.keepable import not_numbers, unkept

PARAMS = Params(Layout((TensorSpec("a", (1,)),)), np.zeros(1, dtype=np.float32))


@pytest.mark.parametrize(
    ("slots", "fault"),
    [
        (
            {"m": np.zeros(2), "i": np.ones(1, "i1"), "h": np.zeros(1, "f2"), "b": np.array(True)},
            "",
        ),
        ({"m": [1.0]}, "slot 'm' is list; expected an array of numbers of up to 64 bits"),
        ({"m": np.array([None])}, "slot 'm' is an array of object; expected an array"),
        ({"m": np.zeros(1, "c16")}, "slot 'm' is an array of complex128; expected an array"),
        ({"m": np.zeros(1, ">f4")}, "slot 'm' is an array of >f4; expected an array"),
        ({3: np.zeros(1)}, "slots: 3 is int; expected a name"),
        (None, "slots are NoneType; expected a mapping by name"),
    ],
)
def test_slots_are_arrays_by_name(slots: Any, fault: str) -> None:
    found = unkept(State(PARAMS, slots=slots))
    assert found.startswith(fault) if fault else not found


@pytest.mark.parametrize(
    ("notes", "fault"),
    [
        ({"a": 1, "b": 2.5, "c": "x", "d": None, "e": [1, {"f": [True]}]}, ""),
        ({"a": (1, 2)}, "note 'a' is tuple; expected what JSON has"),
        ({"a": [np.float32(1)]}, "note 'a' is list; expected what JSON has"),
        ({"a": {1: 2}}, "note 'a' is dict; expected what JSON has"),
        ({1: 2}, "notes: 1 is int; expected a name"),
        ([], "notes are list; expected a mapping by name"),
    ],
)
def test_notes_are_what_json_has(notes: Any, fault: str) -> None:
    found = unkept(State(PARAMS, notes=notes))
    assert found.startswith(fault) if fault else not found


@pytest.mark.parametrize(
    ("metrics", "fault"),
    [
        ({"a": 1, "b": 2.5, "c": np.float32(1), "d": float("nan")}, ""),
        ({"a": "1"}, "metric 'a' is str; expected a number by name"),
        ({"a": np.zeros(1)}, "metric 'a' is ndarray; expected a number by name"),
        ({2: 1.0}, "metric 2 is float; expected a number by name"),
        (None, "metrics are NoneType; expected a mapping of numbers"),
    ],
)
def test_metrics_are_numbers_by_name(metrics: object, fault: str) -> None:
    assert not_numbers(metrics) == fault
