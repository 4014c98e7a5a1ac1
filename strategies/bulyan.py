"""Bulyan: Krum again and again, then a trimmed mean around the median.

El Mhamdi, Guerraoui and Rouault, "The Hidden Vulnerability of Distributed Learning in Byzantium",
ICML 2018, https://arxiv.org/abs/1802.07927: Krum chooses an update, which is set aside,
until ``theta = n - 2 f`` are chosen; each coordinate is then the mean of the ``beta = theta - 2 f``
chosen values nearest to their median. It needs ``n >= 4 f + 3``. Clients count alike, whatever
their examples.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedloom.core.errors import require
from fedloom.core.layout import Layout, Vector
from fedloom.strategies.bounds import Bound
from fedloom.strategies.compose import Composed
from fedloom.strategies.coordinatewise import by_column, middle
from fedloom.strategies.held_cohort import HeldCohort
from fedloom.strategies.krum import squared_distances
from fedloom.strategies.optimizers import Sgd
from fedloom.strategies.over_cohort import OverCohort, check_absent
from fedloom.strategies.plan import Constant

__all__ = ["Bulyan", "bulyan", "chosen_in_turn"]


@dataclass(frozen=True)
class Bulyan:
    """The mean of the values nearest to the median, of updates that Krum chose one by one.

    Attributes:
        f: how many clients may be malicious.
        absent: ``skip``: a coordinate's values are of the chosen clients that have the tensor, and
            one that no more than ``2 f`` of them have stays as it is; ``unchanged``: the others
            count as a delta of zero. For distances an absent tensor is a delta of zero.
    """

    f: int = 1
    absent: str = "skip"

    def __post_init__(self) -> None:
        require(self.f >= 0, "f", self.f, "0 or more")
        check_absent(self.absent)

    def combined(self, held: HeldCohort, layout: Layout) -> Vector:
        """The mean around the median of each coordinate of the chosen updates."""
        distances = squared_distances(held, layout)
        chosen = chosen_in_turn(distances, self.f, len(held) - 2 * self.f)
        return by_column(held, layout, self._around, absent=self.absent, chosen=chosen)

    def _around(self, values: NDArray[np.float32]) -> Vector:
        """The mean of each row's ``beta`` values nearest to its median.

        In ascending order these are neighbours. From those that start at a to those that start
        at ``a + 1``, ``s[a + beta]`` comes in for ``s[a]``: it is nearer while
        ``median - s[a] > s[a + beta] - median``.
        """
        beta = values.shape[1] - 2 * self.f
        if beta <= 0:
            return np.zeros(len(values), dtype=np.float32)
        centre = middle(values)[:, None]
        with np.errstate(over="ignore"):
            later = centre - values[:, : 2 * self.f] > values[:, beta:] - centre
        start = later.sum(axis=1, dtype=np.intp)
        place = np.arange(values.shape[1])[None, :] - start[:, None]
        inside = (place >= 0) & (place < beta)
        kept = np.where(inside, values, np.float32(0)) * np.float32(1 / beta)
        return np.asarray(kept.sum(axis=1), dtype=np.float32)


def bulyan(f: int = 1, lr: float = 1.0, absent: str = "skip") -> Composed:
    """Move along Bulyan's mean of the deltas.

    Args:
        f: how many clients may be malicious; ``4 f + 3`` are needed.
        lr: server learning rate.
        absent: ``skip`` or ``unchanged``: what a tensor missing from an update means.

    Raises:
        ConfigError: an argument is out of range.
    """
    rule = OverCohort(Bulyan(f, absent), Bound("bulyan", f=f, per=4, rest=3))
    return Composed(Constant(), rule, Sgd(lr))


def chosen_in_turn(distances: NDArray[np.float64], f: int, count: int) -> NDArray[np.intp]:
    """The updates that Krum chooses one after the other, each without those before it.

    Of ``m`` updates that are left Krum looks at the ``m - f - 2`` nearest of each (one at least).

    Args:
        distances: squared, of every two updates.
        f: how many clients may be malicious.
        count: how many are chosen.

    Returns:
        Their numbers, in the order of the choice.
    """
    n = len(distances)
    others = distances.copy()
    np.fill_diagonal(others, np.inf)
    order = np.argsort(others, axis=1, kind="stable")
    ranked = np.take_along_axis(others, order, axis=1)
    left = np.ones(n, dtype=np.bool_)
    chosen: list[int] = []
    for done in range(count):
        there = left[order]  # of the neighbours of each, nearest first
        near = there & (np.cumsum(there, axis=1, dtype=np.int32) <= max(n - done - f - 2, 1))
        score = np.where(near, ranked, 0.0).sum(axis=1)
        candidates = np.flatnonzero(left)
        best = int(candidates[np.argmin(score[candidates])])
        chosen.append(best)
        left[best] = False
    return np.array(chosen, dtype=np.intp)
