"""Clients that do badly count more.

q-FedAvg: Li, Sanjabi, Beirami and Smith, "Fair Resource Allocation in Federated Learning", ICLR
2020, https://arxiv.org/abs/1905.10497, Algorithm 2. With F_k a client's loss and L = 1 / eta of its
local steps, the largest eta where tensors have their own:

    d_k = L (theta_k - theta)
    theta <- theta + sum F_k^q d_k / sum (q F_k^(q - 1) ||d_k||^2 + L F_k^q)

q = 0 is the plain mean over clients. F_k is the loss that the client reports, the mean over its
local steps; the paper takes it at theta, which is the same for one step.
"""

import math
from dataclasses import dataclass, replace

import numpy as np

from fedloom.core.errors import UpdateRefusedError, require
from fedloom.core.slopes import rate_of
from fedloom.core.types import ClientUpdate, Delta, Params
from fedloom.strategies.aggregate import FixedPointSum, WeightedMean
from fedloom.strategies.compose import Composed
from fedloom.strategies.decoded import decoded
from fedloom.strategies.optimizers import Sgd
from fedloom.strategies.plan import Constant

__all__ = ["FairMean", "qfedavg"]

MEAN = WeightedMean()


def qfedavg(q: float = 0.2, lr: float = 1.0) -> Composed:
    """Averaging in which clients weigh by their loss to the power of q.

    Args:
        q: how much fairness counts; 0 is the plain mean over clients.
        lr: server learning rate.

    Raises:
        ConfigError: an argument is out of range.
    """
    return Composed(Constant(), FairMean(q), Sgd(lr))


@dataclass(eq=False)
class Fair:
    """A running total.

    Attributes:
        sums: of ``F_k^q d_k``.
        scales: of each client, what it adds to the denominator.
    """

    sums: FixedPointSum
    scales: list[float]


@dataclass(frozen=True)
class FairMean:
    """q-FedAvg's aggregator.

    Attributes:
        q: 0 or more.
    """

    q: float

    def __post_init__(self) -> None:
        require(0 <= self.q < float("inf"), "q", self.q, "0 or more, and finite")

    def add(self, total: Fair | None, update: ClientUpdate) -> Fair:
        """Fold one decoded update into the total, in any order.

        Raises:
            UpdateRefusedError: as `WeightedMean.add`; or no loss above 0 came with it.
        """
        delta = decoded(update).dense()
        loss = update.metrics.get("loss", 0.0 if self.q else 1.0)
        if not 0 < loss < math.inf:
            text = f"metrics.loss = {loss}: above 0 and finite, to weigh it by"
            raise UpdateRefusedError(f"client {update.client!r}: {text}")
        slope = 1 / max((rate_of(spec, update.work) for spec in delta.layout), default=1.0)
        square = float(np.square(delta.vector, dtype=np.float64).sum()) * slope**2
        scale = self.q * loss ** (self.q - 1) * square + slope * loss**self.q
        weighed = Delta(delta.layout, np.float32(slope * loss**self.q) * delta.vector)
        alike = replace(update, delta=weighed, num_examples=1)
        sums = MEAN.add(total.sums if total else None, alike)
        scales = total.scales if total else []
        scales.append(scale)
        return Fair(sums, scales)

    def mean(self, params: Params, total: Fair) -> Delta:
        """The step; the sum of the scales is exactly rounded, in any order (`math.fsum`)."""
        mean = MEAN.mean(params, total.sums)
        factor = len(total.scales) / math.fsum(total.scales)
        return Delta(mean.layout, mean.vector * np.float32(factor))
