"""The median and the trimmed mean of each coordinate.

Yin, Chen, Ramchandran and Bartlett, "Byzantine-Robust Distributed Learning: Towards Optimal
Statistical Rates", ICML 2018, https://arxiv.org/abs/1803.01498, definitions 1 (median) and 2
(trimmed mean). Clients count alike, whatever their examples: a weight that a client states itself
would be a lever.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedloom.core.errors import require
from fedloom.core.layout import Layout, Vector
from fedloom.strategies.bounds import Bound
from fedloom.strategies.compose import Composed
from fedloom.strategies.held_cohort import HeldCohort
from fedloom.strategies.optimizers import Sgd
from fedloom.strategies.order import Statistic, of_columns
from fedloom.strategies.over_cohort import OverCohort, check_absent
from fedloom.strategies.plan import Constant

__all__ = ["CoordinateMedian", "TrimmedMean", "by_column", "median", "trimmed_mean"]


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
        return by_column(held, layout, Statistic.MEDIAN, absent=self.absent)


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
        return by_column(held, layout, Statistic.TRIMMED, self.f, absent=self.absent)


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
    statistic: Statistic,
    f: int = 0,
    *,
    absent: str,
    chosen: NDArray[np.intp] | None = None,
) -> Vector:
    """One number for each coordinate, from the values that clients have for it.

    Args:
        held: the cohort.
        layout: the model's.
        statistic: of the values.
        f: what `statistic` says; tensors that no more than ``2 f`` have are zero.
        absent: ``skip`` or ``unchanged``.
        chosen: numbers of the clients that count, in ascending order; None for all.

    Returns:
        float32 ``[layout.size]``, zero for tensors that nobody has.
    """
    out = np.zeros(layout.size, dtype=np.float32)
    for block in held.blocks(layout, chosen=chosen):
        everybody = absent == "unchanged" or block.present.all()
        rows = np.arange(len(block.rows)) if everybody else np.flatnonzero(block.present)
        if len(rows) > 2 * f and block.present.any():
            out[block.span] = of_columns(statistic, block.rows, rows, f)
    return out
