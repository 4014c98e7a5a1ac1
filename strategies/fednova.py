"""Means that do not favour clients which take more steps.

FedNova: Wang, Liu, Liang, Joshi and Poor, "Tackling the Objective Inconsistency Problem in
Heterogeneous Federated Optimization", NeurIPS 2020, https://arxiv.org/abs/2007.07481, eq. 4
with the clients' shares as weights (section 5). A client's change is divided by the length of its
steps, ``||a_k||_1``, and the mean of what comes of it is multiplied by their mean. With weights
p_k:

    theta <- theta + lr (sum p_k ||a_k||_1) (sum p_k (theta_k - theta) / ||a_k||_1)

For tau_k steps of SGD ``||a_k||_1 = tau_k``; with momentum rho it is
``(tau - rho (1 - rho^tau) / (1 - rho)) / (1 - rho)``, and with a proximal term mu at rate eta
``(1 - (1 - eta mu)^tau) / (eta mu)`` (section 4.1). Of AdamW the paper says nothing: tau_k stands
there.
"""

from dataclasses import dataclass, replace

import numpy as np

from fedloom.core.types import ClientUpdate, Delta, Params
from fedloom.core.work import LocalWork
from fedloom.strategies.aggregate import FixedPointSum, WeightedMean
from fedloom.strategies.compose import Composed
from fedloom.strategies.decoded import decoded
from fedloom.strategies.optimizers import Sgd
from fedloom.strategies.plan import Constant

__all__ = ["NormalisedMean", "fednova", "length_of"]


def fednova(lr: float = 1.0, absent: str = "skip") -> Composed:
    """FedAvg over changes that are divided by the length of their clients' steps.

    Args:
        lr: server learning rate.
        absent: ``skip`` or ``unchanged``: what a tensor missing from an update means.

    Raises:
        ConfigError: an argument is out of range.
    """
    return Composed(Constant(), NormalisedMean(WeightedMean(absent)), Sgd(lr))


@dataclass(eq=False)
class Normalised:
    """A running total.

    Attributes:
        sums: of the changes, each divided by its length.
        examples: behind each length, so that the mean length does not depend on the order.
    """

    sums: FixedPointSum
    examples: dict[float, int]


@dataclass(frozen=True)
class NormalisedMean:
    """FedNova's aggregator.

    Attributes:
        inner: the mean of the normalised changes.
    """

    inner: WeightedMean = WeightedMean()

    def add(self, total: Normalised | None, update: ClientUpdate) -> Normalised:
        """Fold one decoded update into the total, in any order.

        Raises:
            UpdateRefusedError: as `WeightedMean.add`.
        """
        length, delta = length_of(update.work, update.num_examples), decoded(update).dense()
        unit = Delta(delta.layout, delta.vector / np.float32(length))
        sums = self.inner.add(total.sums if total else None, replace(update, delta=unit))
        examples = total.examples if total else {}
        examples[length] = examples.get(length, 0) + update.num_examples
        return Normalised(sums, examples)

    def mean(self, params: Params, total: Normalised) -> Delta:
        """The mean direction, times the mean length."""
        weight = max(sum(total.examples.values()), 1)
        length = sum(one * n for one, n in sorted(total.examples.items())) / weight
        mean = self.inner.mean(params, total.sums)
        return Delta(mean.layout, mean.vector * np.float32(length))


def length_of(work: LocalWork, examples: int) -> float:
    """``||a||_1`` of a client with so many training examples; at least 1 step."""
    steps = max(work.step_count(examples), 1)
    shrink = work.lr * work.prox_mu
    if work.momentum:
        rho = work.momentum
        return (steps - rho * (1 - rho**steps) / (1 - rho)) / (1 - rho)
    if 0 < shrink < 1 and work.optimizer == "sgd":
        return float((1 - (1 - shrink) ** steps) / shrink)
    return float(steps)
