"""Bulyan: Krum again and again, then a trimmed mean around the median.

El Mhamdi, Guerraoui and Rouault, "The Hidden Vulnerability of Distributed Learning in Byzantium",
ICML 2018, https://arxiv.org/abs/1802.07927: Krum chooses an update, which is set aside,
until ``theta = n - 2 f`` are chosen; each coordinate is then the mean of the ``beta = theta - 2 f``
chosen values nearest to their median; of values that are just as far, those on both sides have the
same say. It needs ``n >= 4 f + 3``. Clients count alike, whatever their examples.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedloom.core.errors import require
from fedloom.core.layout import Layout, Vector
from fedloom.strategies.bounds import Bound
from fedloom.strategies.compose import Composed
from fedloom.strategies.coordinatewise import by_column
from fedloom.strategies.held_cohort import HeldCohort
from fedloom.strategies.krum import squared_distances
from fedloom.strategies.optimizers import Sgd
from fedloom.strategies.order import Statistic
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
        distances = squared_distances(held, layout, self.f)
        chosen = np.sort(chosen_in_turn(distances, self.f, len(held) - 2 * self.f))
        around = Statistic.AROUND
        return by_column(held, layout, around, self.f, absent=self.absent, chosen=chosen)


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
    near = _Nearest(distances, max(n - f - 2, 1))
    chosen: list[int] = []
    for done in range(count):
        chosen.append(near.best())
        near.remove(chosen[-1], max(n - done - 1 - f - 2, 1))
    return np.array(chosen, dtype=np.intp)


class _Nearest:
    """Sums of distances to the nearest updates, while updates are taken away.

    Sums are carried on: with one update less, and one neighbour less to count, a sum loses the one
    that went, or else its farthest. What that rounds off is bounded, and whoever may have the least
    sum within it is added up afresh, so that the choice is that of the plain sums.

    Args:
        distances: squared, of every two updates.
        count: how many of the nearest are added up.
    """

    _count: int
    _last: NDArray[np.intp]  # of each, where the farthest that counts stands in its order
    _sums: NDArray[np.float64]  # of the distances that are finite
    _infinite: NDArray[np.intp]  # how many are not
    _margin: NDArray[np.float64]

    def __init__(self, distances: NDArray[np.float64], count: int) -> None:
        others = distances.copy()
        np.fill_diagonal(others, np.inf)
        self._rows = np.arange(len(others))
        self._order = np.argsort(others, axis=1, kind="stable")
        self._ranked = np.take_along_axis(others, self._order, axis=1)
        self._place = np.empty_like(self._order)
        np.put_along_axis(self._place, self._order, self._rows[None, :], axis=1)
        self._left = np.ones(len(others), dtype=np.bool_)
        self._begin(count)

    def best(self) -> int:
        """Of those that are left, the first with the least sum."""
        left = np.flatnonzero(self._left & (self._infinite == 0))
        if not len(left):
            return int(np.argmax(self._left))
        sums, margin = self._sums[left], self._margin[left]
        left = left[sums - margin <= (sums + margin).min()]
        return int(left[np.argmin(self._plain(left))]) if len(left) > 1 else int(left[0])

    def remove(self, gone: int, count: int) -> None:
        """Take one away, and add up so many of each from now on."""
        self._left[gone] = False
        if count == self._count:
            self._begin(count)
            return
        self._count = count
        place = self._place[:, gone]
        inside = place <= self._last
        lost = self._ranked[self._rows, np.where(inside, place, self._last)]
        finite = np.isfinite(lost)
        self._sums -= np.where(finite, lost, 0.0)
        self._infinite -= ~finite
        self._last -= ~inside
        self._settle()

    def _begin(self, count: int) -> None:
        """Add all up afresh."""
        self._count = count
        there = self._left[self._order]
        near = there & (np.cumsum(there, axis=1, dtype=np.int32) <= count)
        finite = np.isfinite(self._ranked)
        self._last = len(near) - 1 - np.argmax(near[:, ::-1], axis=1)
        self._infinite = (near & ~finite).sum(axis=1)
        self._sums = np.where(near & finite, self._ranked, 0.0).sum(axis=1)
        # A sum here or in `_plain` has up to 3 n steps, each of numbers no greater than the first.
        self._margin = self._sums * (4 * len(near) * np.finfo(np.float64).eps)

    def _settle(self) -> None:
        """Let the farthest that counts be one that is left."""
        rows = self._rows[self._left]
        while len(rows):
            rows = rows[~self._left[self._order[rows, self._last[rows]]]]
            self._last[rows] -= 1

    def _plain(self, rows: NDArray[np.intp]) -> NDArray[np.float64]:
        there = self._left[self._order[rows]]
        near = there & (np.cumsum(there, axis=1, dtype=np.int32) <= self._count)
        return np.asarray(np.where(near, self._ranked[rows], 0.0).sum(axis=1))
