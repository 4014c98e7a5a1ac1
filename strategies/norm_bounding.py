"""Norm bounding: no update is longer than a bound.

Sun, Kairouz, Suresh and McMahan, "Can You Really Backdoor Federated Learning?", 2019,
https://arxiv.org/abs/1911.07963 ("Norm thresholding of updates"): each delta is divided
by ``max(1, ||delta|| / M)`` before the mean. Clients are weighted by their examples, as in FedAvg.
It streams: nothing of the cohort is held. It takes direction from whoever sends; it bounds how far
one client moves the model, and does not find who lies.
"""

import math
from dataclasses import dataclass, replace

import numpy as np

from fedloom.core.errors import require
from fedloom.core.types import ClientUpdate, Delta, Params
from fedloom.strategies.aggregate import FixedPointSum, WeightedMean
from fedloom.strategies.compose import Composed
from fedloom.strategies.optimizers import Sgd
from fedloom.strategies.plan import Constant

__all__ = ["BoundedMean", "norm_bounding"]


@dataclass(frozen=True)
class BoundedMean:
    """The weighted mean of deltas that are scaled down to a bound.

    Attributes:
        norm: the bound M on a delta's L2 norm, over all tensors that it has.
        mean_of: of the scaled deltas.
    """

    norm: float = 1.0
    mean_of: WeightedMean = WeightedMean()

    def __post_init__(self) -> None:
        require(0 < self.norm < float("inf"), "norm", self.norm, "above 0, and finite")

    def add(self, total: FixedPointSum | None, update: ClientUpdate) -> FixedPointSum:
        """Fold one decoded update into the total, in any order.

        Raises:
            UpdateRefusedError: as `WeightedMean.add`.
        """
        if update.delta is None:
            return self.mean_of.add(total, update)
        delta = update.delta.dense()
        length = math.sqrt(float(np.square(delta.vector, dtype=np.float64).sum()))
        if length > self.norm:
            scaled = delta.vector * np.float32(self.norm / length)
            delta = Delta(delta.layout, scaled)
        return self.mean_of.add(total, replace(update, delta=delta))

    def mean(self, params: Params, total: FixedPointSum) -> Delta:
        """The mean over the layout of `params`."""
        return self.mean_of.mean(params, total)


def norm_bounding(norm: float = 1.0, lr: float = 1.0, absent: str = "skip") -> Composed:
    """FedAvg with deltas that are scaled down to an L2 norm of at most `norm`.

    Args:
        norm: the bound; the paper's M. Typical lengths of a job's honest deltas are a start.
        lr: server learning rate.
        absent: ``skip`` or ``unchanged``: what a tensor missing from an update means.

    Raises:
        ConfigError: an argument is out of range.
    """
    return Composed(Constant(), BoundedMean(norm, WeightedMean(absent)), Sgd(lr))
