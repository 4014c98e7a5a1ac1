"""The geometric median: the point of the least sum of distances to the updates (RFA).

Pillutla, Kakade and Harchaoui, "Robust Aggregation for Federated Learning", IEEE Transactions on
Signal Processing 2022, https://arxiv.org/abs/1912.13445, by the smoothed Weiszfeld algorithm, again
and again:

    beta_k = alpha_k / max(nu, ||z - x_k||),    z = sum_k beta_k x_k / sum_k beta_k

The point is a weighted mean of the updates, so it is held as one weight for each client; every
iteration reads the updates once.
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
from fedloom.strategies.over_cohort import OverCohort, check_absent, held_mean
from fedloom.strategies.plan import Constant

__all__ = ["GeometricMedian", "rfa"]

_STILL = 1e-4
"""The iteration ends when no client's weight changes by more than this share of itself."""


@dataclass(frozen=True)
class GeometricMedian:
    """Smoothed Weiszfeld.

    Attributes:
        weighted: whether ``alpha_k`` is the client's share of the examples, as in the paper, or the
            same for all. Examples are what clients say of themselves.
        nu: distances count as no less than this.
        iterations: at most.
        absent: ``skip`` or ``unchanged``: what it means for the last mean that an update lacks a
            tensor; for distances it is a delta of zero.
    """

    weighted: bool = False
    nu: float = 1e-6
    iterations: int = 64
    absent: str = "skip"

    def __post_init__(self) -> None:
        require(0 < self.nu < float("inf"), "nu", self.nu, "above 0, and finite")
        require(self.iterations >= 1, "iterations", self.iterations, "1 or more")
        check_absent(self.absent)

    def combined(self, held: HeldCohort, layout: Layout) -> Vector:
        """The geometric median of the updates."""
        alpha = np.array([u.num_examples if self.weighted else 1 for u in held.updates], float)
        if not alpha.sum():
            return np.zeros(layout.size, dtype=np.float32)
        return held_mean(held, layout, self._weights(held, layout, alpha), self.absent)

    def _weights(
        self, held: HeldCohort, layout: Layout, alpha: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """What each update weighs in the geometric median, float64 ``[clients]``, 1 in all.

        From the mean of the updates cut down to their median length on: unlike in the mean, no
        liar is far ahead there, and unlike at an update, none holds the point where it is.
        """
        lengths = _distances(held, layout, np.zeros(len(held)))
        beta = alpha / np.maximum(lengths, max(float(np.median(lengths)), self.nu))
        weights = np.asarray(beta / beta.sum())
        for _ in range(self.iterations):
            before = weights
            beta = alpha / np.maximum(_distances(held, layout, before), self.nu)
            weights = np.asarray(beta / beta.sum())
            if (np.abs(weights - before) <= _STILL * weights).all():
                break
        return weights


def rfa(
    weighted: bool = False,
    nu: float = 1e-6,
    iterations: int = 64,
    lr: float = 1.0,
    absent: str = "skip",
) -> Composed:
    """Move along the geometric median of the deltas; less than half of them may be malicious.

    Args:
        weighted: weigh clients by the examples that they say they have, as the paper does.
        nu: smoothing: distances count as no less than this.
        iterations: of Weiszfeld's algorithm, at most.
        lr: server learning rate.
        absent: ``skip`` or ``unchanged``: what a tensor missing from an update means.

    Raises:
        ConfigError: an argument is out of range.
    """
    rule = GeometricMedian(weighted, nu, iterations, absent)
    return Composed(Constant(), OverCohort(rule, Bound("rfa", f=0, per=2, rest=1)), Sgd(lr))


def _distances(
    held: HeldCohort, layout: Layout, weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """How far each update is from their weighted mean, float64 ``[clients]``."""
    squares = np.zeros(len(held))
    for block in held.blocks(layout):
        rows = block.rows
        rows -= weights.astype(np.float32) @ rows
        squares += np.einsum("ij,ij->i", rows, rows, dtype=np.float64)
    return np.asarray(np.sqrt(squares))
