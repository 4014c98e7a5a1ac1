"""Federated averaging, and its proximal variant.

FedAvg: McMahan, Moore, Ramage, Hampson and Agüera y Arcas, "Communication-Efficient Learning of
Deep Networks from Decentralized Data", AISTATS 2017, https://arxiv.org/abs/1602.05629, Algorithm 1.

FedProx: Li, Sahu, Zaheer, Sanjabi, Talwalkar and Smith, "Federated Optimization in Heterogeneous
Networks", MLSys 2020, https://arxiv.org/abs/1812.06127, Algorithm 2. Clients add
``mu/2 ||w - w_global||^2`` to their loss; the server is FedAvg's.
"""

from fedloom.strategies.aggregate import WeightedMean
from fedloom.strategies.compose import Composed
from fedloom.strategies.optimizers import Sgd
from fedloom.strategies.plan import Constant

__all__ = ["fedavg", "fedprox"]


def fedavg(lr: float = 1.0, absent: str = "skip") -> Composed:
    """Move by `lr` times the mean delta; with ``lr = 1``, to the mean of the clients' models.

    Args:
        lr: server learning rate.
        absent: ``skip`` or ``unchanged``: what a tensor missing from an update means.

    Raises:
        ConfigError: an argument is out of range.
    """
    return Composed(Constant(), WeightedMean(absent), Sgd(lr))


def fedprox(mu: float = 0.01, lr: float = 1.0, absent: str = "skip") -> Composed:
    """FedAvg over clients that are held near the global model.

    Args:
        mu: weight of the proximal term; the paper tunes it in {0.001, 0.01, 0.1, 1}. It takes the
            place of the job's ``local.prox_mu``.
        lr: server learning rate.
        absent: ``skip`` or ``unchanged``: what a tensor missing from an update means.

    Raises:
        ConfigError: an argument is out of range.
    """
    return Composed(Constant(prox_mu=mu), WeightedMean(absent), Sgd(lr))
