"""Steps of several rounds at one model, kept in a strategy's state until they are enough."""

import json
from collections.abc import Mapping
from dataclasses import asdict, replace

import numpy as np

from fedloom.core.errors import RunError
from fedloom.core.layout import Layout
from fedloom.core.steps import Directions
from fedloom.core.types import State
from fedloom.strategies.step_total import Gathered, Kind, StepTotal

__all__ = ["held", "joined", "keeping", "released"]

_NOTE = "held"
_SLOT = "held/"


def keeping(state: State, total: StepTotal) -> State:
    """The state with a total's steps in it, in place of those that it held.

    What the total has number by number is not kept: at the same model and on the same examples it
    is there again.
    """
    bare = released(state)
    slots, kinds = dict(bare.slots), []
    for place, (kind, found) in enumerate(sorted(total.steps.items(), key=lambda p: p[0].round)):
        owners = sorted(found.scalars)
        scalars = [found.scalars[owner] for owner in owners]
        slots[f"{_SLOT}{place}/owners"] = np.array(owners, dtype=np.uint64)
        slots[f"{_SLOT}{place}/weights"] = np.array([found.weights[o] for o in owners], np.int64)
        slots[f"{_SLOT}{place}/counts"] = np.array([len(s) for s in scalars], dtype=np.int64)
        slots[f"{_SLOT}{place}/scalars"] = np.concatenate(scalars)
        kinds.append(_described(kind, found))
    return replace(bare, slots=slots, notes={**bare.notes, _NOTE: json.dumps(kinds)})


def held(state: State) -> StepTotal:
    """The steps that a state holds.

    Raises:
        RunError: what it holds is not of this model.
    """
    total = StepTotal()
    for place, told in enumerate(json.loads(str(state.notes.get(_NOTE, "[]")))):
        specs = {spec.name: spec for spec in state.params.layout}
        if not set(told["tensors"]) <= specs.keys():
            raise RunError(f"held steps: of tensors {told['tensors']} that the model lacks")
        layout = Layout(tuple(specs[name] for name in told["tensors"]))
        directions = Directions(**told["directions"])
        kind = Kind(layout, told["coefficient"], directions, told["seed"], told["round"])
        parts = {n: state.slots[f"{_SLOT}{place}/{n}"] for n in ("owners", "weights", "counts")}
        ends = np.cumsum(parts["counts"])[:-1]
        scalars = np.split(state.slots[f"{_SLOT}{place}/scalars"].astype(np.int64), ends)
        owners = [int(owner) for owner in parts["owners"]]
        found = Gathered(
            dict(zip(owners, scalars, strict=True)),
            dict(zip(owners, (int(weight) for weight in parts["weights"]), strict=True)),
            **told["sums"],
        )
        total.steps[kind] = found
        total.weight += found.weight
    return total


def joined(before: StepTotal, now: StepTotal) -> StepTotal:
    """The steps of earlier rounds and of this one; number by number, this one's alone."""
    return StepTotal({**before.steps, **now.steps}, now.rest, before.weight + now.weight)


def released(state: State) -> State:
    """The state without held steps."""
    slots = {name: array for name, array in state.slots.items() if not name.startswith(_SLOT)}
    notes = {name: note for name, note in state.notes.items() if name != _NOTE}
    return replace(state, slots=slots, notes=notes)


def _described(kind: Kind, found: Gathered) -> Mapping[str, object]:
    sums = {name: getattr(found, name) for name in ("weight", "clients", "used", "bound")}
    return {
        "tensors": kind.layout.names,
        "coefficient": kind.coefficient,
        "directions": asdict(kind.directions),
        "seed": kind.seed,
        "round": kind.round,
        "sums": sums,
    }
