"""Means of updates that are steps along known directions: integers are added, directions made once.

The sum over a cohort of ``num_examples * scalar`` is one integer per direction, so it has the same
bits in any order; the directions are made in one pass when the round ends (`core.replay`), whatever
the size of the cohort. What updates give number by number is averaged beside it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from fedloom.core.errors import UpdateRefusedError, require
from fedloom.core.layout import Layout, Vector
from fedloom.core.replay import Entry, apply, replay
from fedloom.core.steps import FAMILIES
from fedloom.core.types import ClientUpdate, Delta, Params
from fedloom.strategies.aggregate import FixedPointSum, WeightedMean
from fedloom.strategies.compose import Composed
from fedloom.strategies.optimizers import Sgd
from fedloom.strategies.plan import Constant

__all__ = ["ScalarMean", "ScalarSum", "zeroth_order"]


@dataclass(frozen=True)
class _Kind:
    """Steps that may be added: over the same tensors, worth the same, from one family."""

    layout: Layout
    coefficient: float
    family: str


@dataclass(eq=False)
class ScalarSum:
    """A running total; `ScalarMean.add` writes into it.

    Attributes:
        steps: ``num_examples * scalar``, summed, by kind, key and place in the group.
        weights: examples behind each kind.
        used: directions behind each kind.
        rest: of what is given number by number.
        weight: examples behind the whole total.
    """

    steps: dict[_Kind, dict[int, list[int]]] = field(default_factory=dict)
    weights: dict[_Kind, int] = field(default_factory=dict)
    used: dict[_Kind, int] = field(default_factory=dict)
    rest: FixedPointSum | None = None
    weight: int = 0


@dataclass(frozen=True)
class ScalarMean:
    """The mean of steps along directions, weighted by examples; of everything else, too.

    An estimate from N random directions in d dimensions is mostly noise: its cosine with what it
    estimates is ``sqrt(N / (N + d + 1))``. Scaled by ``N / (N + shrink d)`` it moves as far as is
    worth while.

    Attributes:
        shrink: share of the dimension that counts as noise (0: no scaling).
    """

    shrink: float = 0.0

    def __post_init__(self) -> None:
        require(0 <= self.shrink < float("inf"), "shrink", self.shrink, "0 or more, and finite")

    def add(self, total: ScalarSum | None, update: ClientUpdate) -> ScalarSum:
        """Fold one decoded update into the total, in any order.

        Raises:
            UpdateRefusedError: the update is not decoded, not finite, or too large.
        """
        total = total or ScalarSum()
        delta, weight = update.delta, update.num_examples
        if delta is None:
            raise UpdateRefusedError(f"client {update.client!r}: the update is not decoded")
        if delta.layout.specs:
            dense = Delta(delta.layout, delta.vector)
            alone = ClientUpdate(update.client, update.round, weight, delta=dense)
            total.rest = WeightedMean().add(total.rest, alone)
        if delta.steps is not None:
            steps = delta.steps
            kind = _Kind(steps.layout, steps.coefficient, steps.directions.family)
            sums = total.steps.setdefault(kind, {})
            for entry in steps.entries():
                known = sums.setdefault(entry.key, [0] * len(entry.scalars))
                for i, scalar in enumerate(entry.scalars):
                    known[i] += weight * scalar
            total.weights[kind] = total.weights.get(kind, 0) + weight
            moved = int(np.count_nonzero(steps.scalars))
            total.used[kind] = total.used.get(kind, 0) + moved
        total.weight += weight
        return total

    def mean(self, params: Params, total: ScalarSum) -> Delta:
        """The mean delta over the layout of `params`, zero where no update has a tensor."""
        found = np.zeros(params.layout.size, dtype=np.float32)
        if total.rest is not None:
            found = WeightedMean().mean(params, total.rest).vector.copy()
        for kind, sums in total.steps.items():
            vector = self._moved(kind, sums, total.weights[kind], total.used[kind])
            for here, there in params.layout.spans(kind.layout):
                found[here] += vector[there]
        return Delta(params.layout, found)

    def _moved(self, kind: _Kind, sums: Mapping[int, list[int]], weight: int, used: int) -> Vector:
        family, size = FAMILIES[kind.family], kind.layout.size
        entries = [Entry(key, tuple(scalars)) for key, scalars in sums.items()]
        scale = used / (used + self.shrink * size) if used else 0.0
        coefficient = kind.coefficient * family.unit * scale / weight
        start = np.zeros(size, dtype=np.float32)
        return apply(start, replay(entries, size, family=family), coefficient)


def zeroth_order(lr: float = 1.0, shrink: float = 0.2) -> Composed:
    """Move along the mean of clients' steps along random directions, as far as they can be trusted.

    Args:
        lr: server learning rate.
        shrink: share of the dimension that counts as noise; the step is scaled by
            ``N / (N + shrink d)`` for N directions in d dimensions (0: not scaled).

    Raises:
        ConfigError: an argument is out of range.
    """
    return Composed(Constant(), ScalarMean(shrink), Sgd(lr))
