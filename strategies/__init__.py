"""Who trains on what, and how updates become the next model."""

from fedloom.strategies.aggregate import FixedPointSum, WeightedMean
from fedloom.strategies.base import Aggregator, Planner, ServerOptimizer, Step, Strategy
from fedloom.strategies.compose import Composed
from fedloom.strategies.conformance import check_strategy
from fedloom.strategies.fedavg import fedavg, fedprox
from fedloom.strategies.fedopt import fedadagrad, fedadam, fedavgm, fedyogi
from fedloom.strategies.optimizers import Adagrad, Adam, Momentum, Sgd, Yogi
from fedloom.strategies.plan import Constant

__all__ = [
    "Adagrad",
    "Adam",
    "Aggregator",
    "Composed",
    "Constant",
    "FixedPointSum",
    "Momentum",
    "Planner",
    "ServerOptimizer",
    "Sgd",
    "Step",
    "Strategy",
    "WeightedMean",
    "Yogi",
    "check_strategy",
    "fedadagrad",
    "fedadam",
    "fedavg",
    "fedavgm",
    "fedprox",
    "fedyogi",
]
