"""Whether what a strategy returns can be kept: in a checkpoint, in the run's history."""

from collections.abc import Mapping
from numbers import Real

import numpy as np

from fedloom.core.types import State

__all__ = ["not_numbers", "unkept"]


def unkept(state: State) -> str:
    """What of a state's slots and notes no checkpoint holds; nothing where all is well."""
    for field, found in (("slots", state.slots), ("notes", state.notes)):
        if not isinstance(found, Mapping):
            return f"{field} are {_kind(found)}; expected a mapping by name"
        for name in found:
            if not isinstance(name, str):
                return f"{field}: {name!r} is {_kind(name)}; expected a name"
    for name, array in state.slots.items():
        if not isinstance(array, np.ndarray) or not _stored(array.dtype):
            what = f"an array of {array.dtype}" if isinstance(array, np.ndarray) else _kind(array)
            return f"slot {name!r} is {what}; expected an array of numbers of up to 64 bits"
    for name, note in state.notes.items():
        if not _plain(note):
            return f"note {name!r} is {_kind(note)}; expected what JSON has: text, a number, a list"
    return ""


def not_numbers(metrics: object) -> str:
    """What of a strategy's metrics is none; nothing where all are numbers by name."""
    if not isinstance(metrics, Mapping):
        return f"metrics are {_kind(metrics)}; expected a mapping of numbers"
    for name, value in metrics.items():
        if not isinstance(name, str) or not isinstance(value, Real):
            return f"metric {name!r} is {_kind(value)}; expected a number by name"
    return ""


def _stored(dtype: np.dtype[np.generic]) -> bool:
    return dtype.kind in "biuf" and dtype.itemsize <= 8 and dtype.isnative


def _plain(value: object) -> bool:
    if isinstance(value, Mapping):
        return isinstance(value, dict) and all(
            isinstance(name, str) and _plain(inner) for name, inner in value.items()
        )
    if isinstance(value, list):
        return all(_plain(inner) for inner in value)
    return value is None or isinstance(value, bool | int | float | str)


def _kind(value: object) -> str:
    return type(value).__name__
