"""Krum and multi-Krum: trust the updates that have the nearest neighbours.

Blanchard, El Mhamdi, Guerraoui and Stainer, "Machine Learning with Adversaries: Byzantine Tolerant
Gradient Descent", NeurIPS 2017, https://arxiv.org/abs/1703.02757: the score of an update is the sum
of its squared distances to the ``n - f - 2`` nearest others; Krum takes the update of the least
score, multi-Krum the mean of the m least. Its proof needs ``2 f + 2 < n``. Clients count alike,
whatever their examples; of equal scores the first client id.

Distances come from matrices of inner products, block by block.
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
from fedloom.strategies.over_cohort import OverCohort, check_absent, held_mean
from fedloom.strategies.plan import Constant

__all__ = ["Krum", "krum", "multi_krum", "scores", "squared_distances"]


@dataclass(frozen=True)
class Krum:
    """The mean of the updates with the least scores.

    Attributes:
        f: how many clients may be malicious.
        m: how many updates are taken (0: ``n - f``).
        absent: ``skip`` or ``unchanged``: what it means for the mean that an update lacks a tensor;
            for distances it is a delta of zero.
    """

    f: int = 1
    m: int = 1
    absent: str = "skip"

    def __post_init__(self) -> None:
        require(self.f >= 0, "f", self.f, "0 or more")
        require(self.m >= 0, "m", self.m, "0 (n - f) or more")
        check_absent(self.absent)

    def combined(self, held: HeldCohort, layout: Layout) -> Vector:
        """The mean of the m updates with the least scores."""
        n = len(held)
        found = scores(squared_distances(held, layout, self.f), self.f)
        chosen = np.argsort(found, kind="stable")[: self.m or n - self.f]
        weights = np.zeros(n)
        weights[chosen] = 1.0
        return held_mean(held, layout, weights, self.absent)


def krum(f: int = 1, lr: float = 1.0, absent: str = "skip") -> Composed:
    """Move along the one delta that has the nearest neighbours.

    Args:
        f: how many clients may be malicious; ``2 f + 3`` are needed.
        lr: server learning rate.
        absent: ``skip`` or ``unchanged``: what a tensor missing from an update means.

    Raises:
        ConfigError: an argument is out of range.
    """
    rule = OverCohort(Krum(f, 1, absent), Bound("krum", f=f, per=2, rest=3))
    return Composed(Constant(), rule, Sgd(lr))


def multi_krum(f: int = 1, m: int = 0, lr: float = 1.0, absent: str = "skip") -> Composed:
    """Move along the mean of the m deltas that have the nearest neighbours.

    Args:
        f: how many clients may be malicious; ``2 f + 3`` are needed.
        m: how many deltas are taken (0: ``n - f``); where fewer come, all of them.
        lr: server learning rate.
        absent: ``skip`` or ``unchanged``: what a tensor missing from an update means.

    Raises:
        ConfigError: an argument is out of range.
    """
    rule = OverCohort(Krum(f, m, absent), Bound("multi-krum", f=f, per=2, rest=3))
    return Composed(Constant(), rule, Sgd(lr))


def squared_distances(held: HeldCohort, layout: Layout, f: int) -> NDArray[np.float64]:
    """``||x_i - x_j||^2`` of every two updates, float64 ``[clients, clients]``.

    An absent tensor is a delta of zero. What is too large for float32 is infinitely far.

    They come from inner products of what the updates differ by from a point among the honest ones,
    as products of what all have in common would drown the differences. The point is the median of
    ``2 f + 1`` updates, which no f liars among them move away.

    Args:
        held: the cohort.
        layout: the model's.
        f: how many clients may be malicious.
    """
    products = np.zeros((len(held), len(held)))
    some = np.arange(min(2 * f + 1, len(held)))
    with np.errstate(over="ignore", invalid="ignore"):
        for block in held.blocks(layout):
            rows = block.rows
            rows -= of_columns(Statistic.MEDIAN, rows, some)
            products += rows @ rows.T
        lengths = np.diag(products)
        found = lengths[:, None] + lengths[None, :] - 2 * products
    found = np.maximum(np.nan_to_num(found, nan=np.inf, posinf=np.inf), 0.0)
    np.fill_diagonal(found, 0.0)
    return found


def scores(distances: NDArray[np.float64], f: int) -> NDArray[np.float64]:
    """Krum's score of each update, float64 ``[clients]``.

    Args:
        distances: squared, of every two updates.
        f: how many clients may be malicious.
    """
    n = len(distances)
    others = distances.copy()
    np.fill_diagonal(others, np.inf)  # nobody is a neighbour of its own
    nearest = np.sort(others, axis=1)[:, : max(n - f - 2, 1)]
    return np.asarray(nearest.sum(axis=1))
