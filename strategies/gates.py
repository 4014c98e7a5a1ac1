"""Whether a round's random directions agree enough to be followed.

Two halves of the directions give two estimates a and b of the same gradient g. By FwdLLM (Xu et
al., ATC 2024; as its code has it) the mean over the coordinates j of
``(a_j - b_j)^2 / 2`` tells how good they are. For n directions that are independent of each other
it is ``2 ||g||^2 / n`` on average: a threshold of it holds for one model and one loss. The cosine
of a and b is about ``(n / 2) / (n / 2 + d)``, whatever the scale.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fedloom.core.layout import Selector
from fedloom.core.replay import Entry, entries_of, replay
from fedloom.core.steps import FAMILIES
from fedloom.strategies.step_total import Gathered, Kind, StepTotal

__all__ = ["cosine", "halves", "variance"]

Estimate = NDArray[np.float64]


def halves(total: StepTotal, tensors: Selector) -> tuple[Estimate, Estimate] | None:
    """The means of the first half of the clients' steps and of the second, in tensors' coordinates.

    Clients stand in the order of rounds, and of their directions' numbers in a round. A step is
    what a client moves by: with ``local.lr = 1`` minus its estimate of the gradient.

    Returns:
        float64 ``[d]`` each, or None where fewer than two clients have steps.

    Raises:
        LayoutError: a pattern matches no tensor that moves.
    """
    owners = sorted(
        ((kind, owner) for kind, found in total.steps.items() for owner in found.scalars),
        key=lambda pair: (pair[0].round, pair[1], pair[0].coefficient, pair[0].layout.digest),
    )
    middle = len(owners) // 2
    if not middle:
        return None
    return (
        _mean(total, owners[:middle], tensors),
        _mean(total, owners[middle:], tensors),
    )


def variance(one: Estimate, other: Estimate) -> float:
    """FwdLLM's statistic: the mean over coordinates of ``(a_j - b_j)^2 / 2``."""
    return float(np.mean(np.square(one - other)) / 2)


def cosine(one: Estimate, other: Estimate) -> float:
    """Cosine of the angle between two estimates; 0 where one is zero."""
    lengths = float(np.linalg.norm(one) * np.linalg.norm(other))
    return float(one @ other) / lengths if lengths else 0.0


def _mean(total: StepTotal, owners: Sequence[tuple[Kind, int]], tensors: Selector) -> Estimate:
    parts: dict[str, Estimate] = {}
    weights: dict[str, int] = {}
    for kind in dict.fromkeys(kind for kind, _ in owners):
        found, mine = total.steps[kind], [owner for k, owner in owners if k == kind]
        weight = sum(found.weights[owner] for owner in mine)
        for spec in kind.layout.select(tensors):
            moved = _moved(kind, _entries(kind, found, mine), spec.name)
            parts[spec.name] = parts.get(spec.name, 0.0) + moved
            weights[spec.name] = weights.get(spec.name, 0) + weight
    return np.concatenate([parts[name] / max(weights[name], 1) for name in sorted(parts)])


def _moved(kind: Kind, entries: Sequence[Entry], name: str) -> Estimate:
    """The steps of entries in the coordinates of one tensor, float64."""
    span, family = kind.layout.span(name), FAMILIES[kind.directions.family]
    sums = replay(entries, span.stop - span.start, start=span.start, family=family)
    return sums.astype(np.float64) * (kind.coefficient * family.unit)


def _entries(kind: Kind, found: Gathered, owners: Sequence[int]) -> list[Entry]:
    entries: list[Entry] = []
    for owner in owners:
        scalars = found.scalars[owner] * found.weights[owner]
        keys = kind.directions.keys(kind.seed, round=kind.round, owner=owner, count=len(scalars))
        entries += entries_of(keys, scalars)
    return entries
