"""A state in one file, all of it or nothing: safetensors with JSON in its header.

Tensors: ``params`` and ``slot/NAME``. Header: the layout, the version, the strategy's notes, and
facts of the caller's own. The file appears under its name only once it is whole on the disk.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from fedloom.core.durable import sync
from fedloom.core.errors import LayoutError, RunError
from fedloom.core.layout import Layout
from fedloom.core.types import Params, State

__all__ = ["JSON", "load_state", "save_state"]

JSON: TypeAlias = Any
"""What `json.dumps` writes: None, bool, int, float, str, and lists and string-keyed dicts of it."""

_FORMAT = "fedloom-state-1"
_SLOT = "slot/"


def save_state(path: Path, state: State, facts: Mapping[str, JSON]) -> None:
    """Write a state and the caller's facts to `path`, replacing what was there.

    A process that dies on the way leaves the old file as it was.

    Raises:
        RunError: the file cannot be written, or a slot, note or fact is not of a kind it can hold.
    """
    slots = {_SLOT + name: np.array(array, order="C") for name, array in state.slots.items()}
    tensors = {"params": np.ascontiguousarray(state.params.vector), **slots}
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        save_file(tensors, draft, _header(state, facts))
        sync(draft)
        os.replace(draft, path)
        sync(path.parent)
    except (OSError, SafetensorError, TypeError, ValueError, KeyError) as error:
        draft.unlink(missing_ok=True)
        raise RunError(f"{path}: cannot be written: {error}") from error


def load_state(path: Path, layout: Layout) -> tuple[State, dict[str, JSON]]:
    """Read what `save_state` wrote for a model of this layout.

    Raises:
        RunError: there is no such file, it is cut short or not a state of ours, or it is of
            another layout; the message names the file and what differs.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            header = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise RunError(f"{path}: no such checkpoint") from None
    except (OSError, SafetensorError, TypeError) as error:
        raise RunError(f"{path}: not a whole safetensors file: {error}") from error
    if header.get("format") != _FORMAT:
        raise RunError(f"{path}: not a checkpoint of fedloom (format {header.get('format')!r})")
    try:
        return _restore(path, header, tensors, layout)
    except (KeyError, TypeError, ValueError, LayoutError) as error:
        text = f"{path}: a damaged checkpoint: {type(error).__name__}: {error}"
        raise RunError(text) from error


def _header(state: State, facts: Mapping[str, JSON]) -> dict[str, str]:
    layout = state.params.layout
    return {
        "format": _FORMAT,
        "digest": layout.digest,
        "layout": json.dumps([[spec.name, spec.shape] for spec in layout]),
        "version": json.dumps(state.version),
        "notes": json.dumps(dict(state.notes)),
        "facts": json.dumps(dict(facts)),
    }


def _restore(
    path: Path,
    header: Mapping[str, str],
    tensors: Mapping[str, NDArray[np.generic]],
    layout: Layout,
) -> tuple[State, dict[str, JSON]]:
    if header["digest"] != layout.digest:
        difference = _difference(json.loads(header["layout"]), layout)
        raise RunError(f"{path}: of another layout: {difference}")
    params = Params(layout, tensors["params"])  # type: ignore[arg-type]  # checked by Params
    slots = {n.removeprefix(_SLOT): a for n, a in tensors.items() if n.startswith(_SLOT)}
    notes, facts = json.loads(header["notes"]), json.loads(header["facts"])
    return State(params, json.loads(header["version"]), slots, notes), facts


def _difference(saved: list[tuple[str, list[int]]], layout: Layout) -> str:
    """The first tensor in which a saved layout and the model's differ."""
    theirs = {name: tuple(shape) for name, shape in saved}
    for spec in layout:
        have = theirs.pop(spec.name, "no such tensor")
        if have != spec.shape:
            return f"tensor {spec.name!r}: the model has {spec.shape}, the file {have}"
    if theirs:
        return f"tensor {next(iter(theirs))!r}: only the file has it"
    return "the same tensors in another order"
