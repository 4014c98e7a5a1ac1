"""Averaging on the clients, a momentum or adaptive optimizer on the server.

FedAdagrad, FedYogi, FedAdam: Reddi, Charles, Zaheer, Garrett, Rush, Konečný, Kumar and McMahan,
"Adaptive Federated Optimization", ICLR 2021, https://arxiv.org/abs/2003.00295.

FedAvgM: Hsu, Qi and Brown, "Measuring the Effects of Non-Identical Data Distribution for Federated
Visual Classification", 2019, https://arxiv.org/abs/1909.06335.

Decay rates and tau are those of the ICLR paper's experiments. Server learning rates it
tunes for each task; 0.01 is a place to start.
"""

from fedloom.strategies.aggregate import WeightedMean
from fedloom.strategies.base import ServerOptimizer
from fedloom.strategies.compose import Composed
from fedloom.strategies.optimizers import Adagrad, Adam, Momentum, Yogi
from fedloom.strategies.plan import Constant

__all__ = ["fedadagrad", "fedadam", "fedavgm", "fedyogi"]


def fedavgm(lr: float = 1.0, momentum: float = 0.9, absent: str = "skip") -> Composed:
    """FedAvg with momentum on the server; in the long run it moves ``lr / (1 - momentum)`` deltas.

    Args:
        lr: server learning rate.
        momentum: share of the velocity that lasts to the next round.
        absent: ``skip`` or ``unchanged``: what a tensor missing from an update means.

    Raises:
        ConfigError: an argument is out of range.
    """
    return _with(Momentum(lr, momentum), absent)


def fedadam(
    lr: float = 0.01,
    betas: tuple[float, float] = (0.9, 0.99),
    tau: float = 1e-3,
    absent: str = "skip",
) -> Composed:
    """Adam on the server, without bias correction.

    Args:
        lr: server learning rate.
        betas: decay of the first and second moments.
        tau: degree of adaptivity, and the start of the second moment's root.
        absent: ``skip`` or ``unchanged``: what a tensor missing from an update means.

    Raises:
        ConfigError: an argument is out of range.
    """
    return _with(Adam(lr, betas, tau), absent)


def fedyogi(
    lr: float = 0.01,
    betas: tuple[float, float] = (0.9, 0.99),
    tau: float = 1e-3,
    absent: str = "skip",
) -> Composed:
    """Yogi on the server: the second moment changes slowly in both directions.

    Args:
        lr: server learning rate.
        betas: decay of the first and second moments.
        tau: degree of adaptivity, and the start of the second moment's root.
        absent: ``skip`` or ``unchanged``: what a tensor missing from an update means.

    Raises:
        ConfigError: an argument is out of range.
    """
    return _with(Yogi(lr, betas, tau), absent)


def fedadagrad(
    lr: float = 0.01, beta1: float = 0.0, tau: float = 1e-3, absent: str = "skip"
) -> Composed:
    """Adagrad on the server: steps shrink where deltas have been large.

    Args:
        lr: server learning rate.
        beta1: decay of the first moment.
        tau: degree of adaptivity, and the start of the second moment's root.
        absent: ``skip`` or ``unchanged``: what a tensor missing from an update means.

    Raises:
        ConfigError: an argument is out of range.
    """
    return _with(Adagrad(lr, beta1, tau), absent)


def _with(optimizer: ServerOptimizer, absent: str) -> Composed:
    return Composed(Constant(), WeightedMean(absent), optimizer)
