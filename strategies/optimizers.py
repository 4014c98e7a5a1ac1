"""How a mean delta moves the global model: the server optimizers of FedOpt.

Reddi, Charles, Zaheer, Garrett, Rush, Konečný, Kumar and McMahan, "Adaptive Federated
Optimization", ICLR 2021, https://arxiv.org/abs/2003.00295. With the round's mean delta
D (local minus global, so the model moves *along* it):

    m <- beta1 m + (1 - beta1) D
    v <- v + D^2                                (Adagrad)
    v <- v - (1 - beta2) D^2 sign(v - D^2)      (Yogi)
    v <- beta2 v + (1 - beta2) D^2              (Adam)
    w <- w + lr m / (sqrt(v) + tau)

starting from m = 0 and v = tau^2, the least that the paper allows. As in the paper, neither moment
is corrected for its start. All arrays are float32 ``[P]``.
"""

from dataclasses import dataclass

import numpy as np

from fedloom.core.errors import require
from fedloom.core.layout import Vector
from fedloom.core.types import Delta, State
from fedloom.strategies.base import Step

__all__ = ["Adagrad", "Adam", "Momentum", "Sgd", "Yogi", "slot_of"]


@dataclass(frozen=True)
class Sgd:
    """``w <- w + lr D``; with ``lr = 1`` the mean of the clients' models."""

    lr: float = 1.0

    def __post_init__(self) -> None:
        _check_lr(self.lr)

    def step(self, state: State, delta: Delta) -> Step:
        """One step from ``state.params`` along `delta`."""
        return Step(state.params.vector + self.lr * delta.vector, {})


@dataclass(frozen=True)
class Momentum:
    """Momentum on the server: ``m <- momentum m + D``, ``w <- w + lr m``.

    Hsu, Qi and Brown, "Measuring the Effects of Non-Identical Data Distribution for Federated
    Visual Classification", 2019, https://arxiv.org/abs/1909.06335.
    """

    lr: float = 1.0
    momentum: float = 0.9

    def __post_init__(self) -> None:
        _check_lr(self.lr)
        require(0 <= self.momentum < 1, "momentum", self.momentum, "in [0, 1)")

    def step(self, state: State, delta: Delta) -> Step:
        """One step from ``state.params`` along the velocity."""
        m = self.momentum * slot_of(state, "m", 0.0) + delta.vector
        return Step(state.params.vector + self.lr * m, {"m": m})


@dataclass(frozen=True)
class Adagrad:
    """Second moments that only grow.

    Attributes:
        lr: server learning rate, the paper's eta.
        beta1: decay of the first moment; 0 is Adagrad as it is usually meant.
        tau: the paper's degree of adaptivity: the larger, the closer to plain averaging.
    """

    lr: float = 0.01
    beta1: float = 0.0
    tau: float = 1e-3

    def __post_init__(self) -> None:
        _check_adaptive(self.lr, (self.beta1, 0.0), self.tau)

    def step(self, state: State, delta: Delta) -> Step:
        """One step from ``state.params``."""
        m = _first_moment(state, delta.vector, self.beta1)
        v = slot_of(state, "v", self.tau**2) + delta.vector * delta.vector
        return _adaptive(state, m, v, self.lr, self.tau)


@dataclass(frozen=True)
class Adam:
    """Second moments that decay exponentially.

    Attributes:
        lr: server learning rate, the paper's eta.
        betas: decay of the first and second moments.
        tau: the paper's degree of adaptivity: the larger, the closer to plain averaging.
    """

    lr: float = 0.01
    betas: tuple[float, float] = (0.9, 0.99)
    tau: float = 1e-3

    def __post_init__(self) -> None:
        _check_adaptive(self.lr, self.betas, self.tau)

    def step(self, state: State, delta: Delta) -> Step:
        """One step from ``state.params``."""
        beta1, beta2 = self.betas
        m = _first_moment(state, delta.vector, beta1)
        square = delta.vector * delta.vector
        v = beta2 * slot_of(state, "v", self.tau**2) + (1 - beta2) * square
        return _adaptive(state, m, v, self.lr, self.tau)


@dataclass(frozen=True)
class Yogi:
    """Second moments that move by ``(1 - beta2) D^2`` at most, up or down.

    Attributes:
        lr: server learning rate, the paper's eta.
        betas: decay of the first and second moments.
        tau: the paper's degree of adaptivity: the larger, the closer to plain averaging.
    """

    lr: float = 0.01
    betas: tuple[float, float] = (0.9, 0.99)
    tau: float = 1e-3

    def __post_init__(self) -> None:
        _check_adaptive(self.lr, self.betas, self.tau)

    def step(self, state: State, delta: Delta) -> Step:
        """One step from ``state.params``."""
        beta1, beta2 = self.betas
        m = _first_moment(state, delta.vector, beta1)
        v, square = slot_of(state, "v", self.tau**2), delta.vector * delta.vector
        sign: Vector = np.sign(v - square)
        return _adaptive(state, m, v - (1 - beta2) * square * sign, self.lr, self.tau)


def slot_of(state: State, name: str, start: float = 0.0) -> Vector:
    """The array `name` of the state, float32 ``[P]``; full of `start` before the first step."""
    if name in state.slots:
        return state.slots[name].astype(np.float32, copy=False)
    return np.full(state.params.layout.size, start, dtype=np.float32)


def _first_moment(state: State, delta: Vector, beta1: float) -> Vector:
    return beta1 * slot_of(state, "m", 0.0) + (1 - beta1) * delta


def _adaptive(state: State, m: Vector, v: Vector, lr: float, tau: float) -> Step:
    root: Vector = np.sqrt(v)
    return Step(state.params.vector + lr * m / (root + tau), {"m": m, "v": v})


def _check_lr(lr: float) -> None:
    require(0 < lr < float("inf"), "lr", lr, "above 0 and finite")


def _check_adaptive(lr: float, betas: tuple[float, float], tau: float) -> None:
    _check_lr(lr)
    require(len(betas) == 2 and all(0 <= b < 1 for b in betas), "betas", betas, "two in [0, 1)")
    require(0 < tau < float("inf"), "tau", tau, "above 0 and finite")
