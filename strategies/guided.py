"""A guide: where the model has been going, along which every client measures the slope as well.

One forward pass more gives the slope along the guide exactly; directions are looked along beside it
only, so that the estimate stays without bias (what `fedloom.tuning.learners.movers.Integers` says
of it), where choosing directions by their cosine with the guide, as FwdLLM does, adds momentum.
"""

from dataclasses import replace

import numpy as np

from fedloom.core.advance import Advance
from fedloom.core.layout import Layout, Vector
from fedloom.core.types import Delta, Params, State
from fedloom.strategies.step_total import Gathered, Kind, StepTotal

__all__ = ["along_guide", "change_of", "next_guide", "without_guide"]


def without_guide(total: StepTotal, guide: Vector) -> tuple[StepTotal, dict[Kind, int]]:
    """A total of directions alone, and the weighted sums of the scalars along the guide.

    Args:
        total: of clients that were told the guide: theirs is the last scalar.
        guide: float32 ``[d]`` of the tensors that move; steps over others have no such scalar.
    """
    steps: dict[Kind, Gathered] = {}
    along: dict[Kind, int] = {}
    for kind, found in total.steps.items():
        if kind.layout.size != guide.size:
            steps[kind] = found
            continue
        parts = {owner: scalars[:-1] for owner, scalars in found.scalars.items()}
        along[kind] = sum(
            found.weights[owner] * int(scalars[-1:].sum())
            for owner, scalars in found.scalars.items()
        )
        used = sum(int(np.count_nonzero(scalars)) for scalars in parts.values())
        steps[kind] = replace(found, scalars=parts, used=used)
    return StepTotal(steps, total.rest, total.weight), along


def along_guide(
    advance: Advance, total: StepTotal, along: dict[Kind, int], guide: Vector, *, lr: float
) -> Advance:
    """An advance that goes along the guide as well, by the mean of the slopes; these are exact.

    Args:
        advance: what comes of the directions and of what is sent beside them.
        total: of the directions.
        along: weighted sums of the scalars along the guide, by kind.
        guide: float32 ``[d]``, of any length.
        lr: server learning rate.
    """
    length = float(np.linalg.norm(guide.astype(np.float64)))
    unit = (guide / (length or 1.0)).astype(np.float32)
    rest = advance.rest
    for kind, scalars in along.items():
        weight = total.steps[kind].weight
        if weight:
            worth = np.float32(lr * kind.coefficient * scalars / weight)
            rest = _plus(rest, Delta(kind.layout, unit * worth))
    return replace(advance, rest=rest)


def change_of(before: Params, after: Params, part: Layout) -> Vector:
    """Where some tensors of a model went, float32 ``[part.size]``."""
    return before.layout.gather(after.vector - before.vector, part)


def next_guide(before: State, after: State, total: StepTotal, decay: float) -> Vector | None:
    """The guide after a round: the decaying sum of what moved along directions.

    None where nothing did, or clients moved unlike tensors.
    """
    layouts = {kind.layout for kind in total.steps}
    if len(layouts) != 1:
        return None
    (moved,) = layouts
    change = change_of(before.params, after.params, moved)
    old = np.asarray(before.slots.get("guide", np.zeros(0, dtype=np.float32)), dtype=np.float32)
    return change if old.size != change.size else np.float32(decay) * old + change


def _plus(one: Delta, other: Delta) -> Delta:
    new = Layout(tuple(spec for spec in other.layout if spec.name not in one.layout))
    layout = Layout.concat((one.layout, new))
    vector = np.concatenate((one.vector, np.zeros(new.size, dtype=np.float32)))
    for here, there in layout.spans(other.layout):
        vector[here] += other.vector[there]
    return Delta(layout, vector)
