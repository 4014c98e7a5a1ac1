"""The median and the trimmed mean of each coordinate.

Yin, Chen, Ramchandran and Bartlett, "Byzantine-Robust Distributed Learning: Towards Optimal
Statistical Rates", ICML 2018, https://arxiv.org/abs/1803.01498, definitions 1 (median) and 2
(trimmed mean). Clients count alike, whatever their examples: a weight that a client states itself
would be a lever.

Columns are turned into rows a few at a time, so that a sort stays in a core's cache.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedloom.core.errors import require
from fedloom.core.layout import Layout, Vector
from fedloom.strategies.bounds import Bound
from fedloom.strategies.compose import Composed
from fedloom.strategies.held_cohort import HeldCohort
from fedloom.strategies.optimizers import Sgd
from fedloom.strategies.over_cohort import OverCohort, check_absent
from fedloom.strategies.plan import Constant

__all__ = ["CoordinateMedian", "TrimmedMean", "by_column", "median", "middle", "trimmed_mean"]

_TILE = 1 << 18
"""Numbers that are turned and sorted at a time: 1 MiB."""


@dataclass(frozen=True)
class CoordinateMedian:
    """The middle value of each coordinate; of an even number of clients, the middle two's mean.

    Attributes:
        absent: ``skip``: the median is over the clients that have the tensor; ``unchanged``: the
            others count as a delta of zero.
    """

    absent: str = "skip"

    def __post_init__(self) -> None:
        check_absent(self.absent)

    def combined(self, held: HeldCohort, layout: Layout) -> Vector:
        """The median of each coordinate."""
        return by_column(held, layout, middle, absent=self.absent)


@dataclass(frozen=True)
class TrimmedMean:
    """The mean of each coordinate without its `f` largest and `f` smallest values.

    Definition 2 has a share beta of the clients; here it is ``beta = f / n``.

    Attributes:
        f: how many clients may be malicious.
        absent: ``skip``: the mean is over the clients that have the tensor, and a tensor that no
            more than ``2 f`` have stays as it is; ``unchanged``: they count as a delta of zero.
    """

    f: int = 1
    absent: str = "skip"

    def __post_init__(self) -> None:
        require(self.f >= 0, "f", self.f, "0 or more")
        check_absent(self.absent)

    def combined(self, held: HeldCohort, layout: Layout) -> Vector:
        """The trimmed mean of each coordinate."""
        return by_column(held, layout, self._trimmed, absent=self.absent)

    def _trimmed(self, values: NDArray[np.float32]) -> Vector:
        count = values.shape[1] - 2 * self.f
        if count <= 0:
            return np.zeros(len(values), dtype=np.float32)
        values.sort(axis=1)
        kept = values[:, self.f : self.f + count]
        # Each divided, so that no sum leaves the range of float32.
        return np.asarray((kept * np.float32(1 / count)).sum(axis=1), dtype=np.float32)


def median(lr: float = 1.0, absent: str = "skip") -> Composed:
    """Move along the median of the deltas, coordinate by coordinate; half of them may be malicious.

    Args:
        lr: server learning rate.
        absent: ``skip`` or ``unchanged``: what a tensor missing from an update means.

    Raises:
        ConfigError: an argument is out of range.
    """
    rule = OverCohort(CoordinateMedian(absent), Bound("median", f=0, per=2, rest=1))
    return Composed(Constant(), rule, Sgd(lr))


def trimmed_mean(f: int = 1, lr: float = 1.0, absent: str = "skip") -> Composed:
    """Move along the trimmed mean of the deltas, coordinate by coordinate.

    Args:
        f: how many clients may be malicious; ``2 f + 1`` are needed.
        lr: server learning rate.
        absent: ``skip`` or ``unchanged``: what a tensor missing from an update means.

    Raises:
        ConfigError: an argument is out of range.
    """
    rule = OverCohort(TrimmedMean(f, absent), Bound("trimmed-mean", f=f, per=2, rest=1))
    return Composed(Constant(), rule, Sgd(lr))


def by_column(
    held: HeldCohort,
    layout: Layout,
    statistic: Callable[[NDArray[np.float32]], Vector],
    *,
    absent: str,
    chosen: NDArray[np.intp] | None = None,
) -> Vector:
    """One number for each coordinate, from the values that clients have for it.

    Args:
        held: the cohort.
        layout: the model's.
        statistic: of values float32 ``[columns, clients]``, which it may write into; float32
            ``[columns]``.
        absent: ``skip`` or ``unchanged``.
        chosen: rows of the clients that count; None for all.

    Returns:
        float32 ``[layout.size]``, zero for tensors that nobody has.
    """
    out = np.zeros(layout.size, dtype=np.float32)
    for block in held.blocks(layout):
        counts = np.ones(len(held), np.bool_) if absent == "unchanged" else block.present.copy()
        if chosen is not None:
            counts &= np.isin(np.arange(len(held)), chosen)
        rows = block.rows if counts.all() else block.rows[counts]
        if not len(rows) or not block.present.any():
            continue
        width = max(_TILE // len(rows), 1)
        for start in range(0, rows.shape[1], width):
            values = np.ascontiguousarray(rows[:, start : start + width].T)
            place = block.span.start + start
            out[place : place + len(values)] = statistic(values)
    return out


def middle(values: NDArray[np.float32]) -> Vector:
    """The median of each row of float32 ``[columns, clients]``, which is sorted in place."""
    values.sort(axis=1)
    return middle_of_sorted(values)


def middle_of_sorted(values: NDArray[np.float32]) -> Vector:
    """The median of each row of float32 ``[columns, clients]`` in ascending order."""
    half = values.shape[1] // 2
    if values.shape[1] % 2:
        return values[:, half]
    pair = values[:, half - 1 : half + 1] * np.float32(0.5)
    return np.asarray(pair[:, 0] + pair[:, 1], dtype=np.float32)
