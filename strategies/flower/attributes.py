"""What an object of Flower's knows, as arrays and JSON: saved and put back without running code.

A strategy of Flower's keeps its state in attributes. Those that hold numbers, strings, bytes,
arrays, Flower's records, generators of random numbers, and lists, tuples, sets and dictionaries of
these are written; a strategy within a strategy is written attribute by attribute. Functions,
classes and the like are settings: they are there again when the strategy is made again. Anything
else is **unsaved**, and named.
"""

import enum
import functools
import json
import logging
import pathlib
import random
import types
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedloom.core.checkpoint import JSON

__all__ = ["Attributes", "Written"]

_PLAIN = (type(None), bool, int, float, str)
_SETTINGS = (
    *(types.FunctionType, types.BuiltinFunctionType, types.MethodType, types.ModuleType, type),
    *(functools.partial, logging.Logger, pathlib.PurePath, enum.Enum),
)
_GENERATORS = ("PCG64", "PCG64DXSM", "Philox", "SFC64", "MT19937")
_SEQUENCES: Mapping[str, type] = {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset}
_SLOT = "flower/"


class _UnsavedError(Exception):
    """A value that cannot be written."""


@dataclass(frozen=True)
class Written:
    """Attributes, written.

    Attributes:
        text: JSON; what is an array in it stands among `slots`.
        slots: arrays by name.
        unsaved: attributes that are not written, with their types.
    """

    text: str = ""
    slots: Mapping[str, NDArray[np.generic]] = field(default_factory=dict)
    unsaved: tuple[str, ...] = ()


class Attributes:
    """The attributes of one object, as they were when it was made and as they become.

    Args:
        owner: the object.
        within: the classes of objects in it that are written attribute by attribute.
    """

    def __init__(self, owner: object, within: type | tuple[type, ...]) -> None:
        self._owner, self._within = owner, within
        self._settings = dict(self._found(owner, ""))
        self._first = self.written()

    def written(self) -> Written:
        """What the attributes are now."""
        slots: dict[str, NDArray[np.generic]] = {}
        tree: dict[str, JSON] = {}
        unsaved = []
        for path, value in self._found(self._owner, ""):
            try:
                tree[path] = _write(value, slots)
            except _UnsavedError:
                setting = isinstance(value, _SETTINGS) and value is self._settings.get(path)
                unsaved += [] if setting else [f"{path} ({type(value).__name__})"]
        return Written(json.dumps(tree), slots, tuple(sorted(unsaved)))

    def put_back(self, text: str, slots: Mapping[str, NDArray[np.generic]]) -> None:
        """Give attributes the values that were written; those that were not there are taken away.

        Args:
            text: of a `Written`; empty for the attributes as they were at first.
            slots: of the same.
        """
        slots, text = (slots, text) if text else (self._first.slots, self._first.text)
        tree = json.loads(text)
        for path, value in list(self._found(self._owner, "")):
            owner, name = self._place(path)
            if path in tree or isinstance(value, _SETTINGS):
                continue
            if path not in self._settings:
                delattr(owner, name)
        for path, value in tree.items():
            owner, name = self._place(path)
            setattr(owner, name, _read(value, slots))

    def _found(self, owner: object, before: str) -> list[tuple[str, Any]]:
        found: list[tuple[str, Any]] = []
        for name, value in vars(owner).items():
            if isinstance(value, self._within):
                found += self._found(value, f"{before}{name}.")
            else:
                found.append((before + name, value))
        return found

    def _place(self, path: str) -> tuple[object, str]:
        *inner, name = path.split(".")
        owner = self._owner
        for part in inner:
            owner = vars(owner)[part]
        return owner, name


def _write(value: Any, slots: dict[str, NDArray[np.generic]]) -> JSON:
    kind = type(value)
    if kind in _PLAIN:
        return value
    if kind in _SEQUENCES.values():
        items = sorted(value, key=repr) if isinstance(value, set | frozenset) else value
        return {kind.__name__: [_write(item, slots) for item in items]}
    if kind is dict:
        return {"dict": [[_write(k, slots), _write(v, slots)] for k, v in value.items()]}
    if isinstance(value, bytes):
        return {"bytes": _slot(np.frombuffer(value, dtype=np.uint8), slots)}
    if isinstance(value, np.ndarray | np.generic) and value.dtype.kind in "fiub":
        return {"array" if kind is np.ndarray else "scalar": _slot(np.asarray(value), slots)}
    if kind is random.Random:
        return {"random": _write(value.getstate(), slots)}
    if kind is np.random.Generator and type(value.bit_generator).__name__ in _GENERATORS:
        return {"generator": _write(value.bit_generator.state, slots)}
    return _write_record(value, slots)


def _write_record(value: Any, slots: dict[str, NDArray[np.generic]]) -> JSON:
    from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord
    from flwr.common import Parameters

    if type(value) is Parameters:
        return {"Parameters": [value.tensor_type, _write(list(value.tensors), slots)]}
    if isinstance(value, Array):
        stated = [value.dtype, list(value.shape), value.stype]
        return {"Array": [*stated, _slot(np.frombuffer(value.data, dtype=np.uint8), slots)]}
    for cls in (ArrayRecord, ConfigRecord, MetricRecord):
        if type(value) is cls:
            return {cls.__name__: _write(dict(value), slots)}
    raise _UnsavedError


def _slot(array: NDArray[np.generic], slots: dict[str, NDArray[np.generic]]) -> str:
    name = f"{_SLOT}{len(slots)}"
    slots[name] = array.copy()
    return name


def _read(value: JSON, slots: Mapping[str, NDArray[np.generic]]) -> Any:
    if not isinstance(value, dict):
        return value
    ((kind, inner),) = value.items()
    if kind in _SEQUENCES:
        return _SEQUENCES[kind](_read(item, slots) for item in inner)
    if kind == "dict":
        return {_read(k, slots): _read(v, slots) for k, v in inner}
    if kind == "bytes":
        return slots[inner].tobytes()
    if kind in ("array", "scalar"):
        return slots[inner].copy() if kind == "array" else slots[inner][()]
    if kind == "random":
        draw = random.Random()
        draw.setstate(_read(inner, slots))
        return draw
    if kind == "generator":
        return _generator(_read(inner, slots))
    return _read_record(kind, inner, slots)


def _generator(state: dict[str, Any]) -> np.random.Generator:
    if state["bit_generator"] not in _GENERATORS:
        raise ValueError(f"generator {state['bit_generator']!r}: one of {', '.join(_GENERATORS)}")
    bits = getattr(np.random, state["bit_generator"])()
    bits.state = state
    return np.random.Generator(bits)


def _read_record(kind: str, inner: JSON, slots: Mapping[str, NDArray[np.generic]]) -> Any:
    from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord
    from flwr.common import Parameters

    if kind == "Parameters":
        return Parameters(_read(inner[1], slots), inner[0])
    if kind == "Array":
        dtype, shape, stype, slot = inner
        return Array(dtype=dtype, shape=tuple(shape), stype=stype, data=slots[slot].tobytes())
    made = {cls.__name__: cls for cls in (ArrayRecord, ConfigRecord, MetricRecord)}
    return made[kind](_read(inner, slots))
