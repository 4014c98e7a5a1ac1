"""Centred clipping: what is far from the last round's step counts as far as a radius only.

Karimireddy, He and Jaggi, "Learning from History for Byzantine Robust Optimization", ICML 2021,
https://arxiv.org/abs/2012.10333, eq. (CC): from ``v``, what the last round came to,

    v <- v + mean_k (x_k - v) min(1, tau / ||x_k - v||)

once or a few times. The paper's clients send momentum of their gradients; here they send what a
round of local training changed, and hold nothing between rounds: its theorem needs the momentum.
Clients count alike, whatever their examples. An absent tensor is as far as v says: its client has
no say in it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from fedloom.core.errors import require
from fedloom.core.layout import Layout, Vector
from fedloom.core.types import (
    ClientId,
    ClientTask,
    ClientUpdate,
    Cohort,
    Delta,
    Metrics,
    Params,
    State,
)
from fedloom.strategies.base import ServerOptimizer
from fedloom.strategies.compose import idle, moved
from fedloom.strategies.held_cohort import Block, HeldCohort, hold
from fedloom.strategies.optimizers import Sgd
from fedloom.strategies.plan import Constant

__all__ = ["CentredClipping", "clipped_around"]

_REFERENCE = "reference"


@dataclass(frozen=True)
class CentredClipping:
    """Steps of clients, clipped around the last round's; the state holds that one.

    Attributes:
        tau: the radius, an L2 norm over all tensors.
        iterations: how often v moves in a round; the paper's l.
        lr: server learning rate.
    """

    tau: float = 1.0
    iterations: int = 1
    lr: float = 1.0

    def __post_init__(self) -> None:
        require(0 < self.tau < float("inf"), "tau", self.tau, "above 0, and finite")
        require(self.iterations >= 1, "iterations", self.iterations, "1 or more")
        self._optimizer()

    def init(self, params: Params) -> State:
        """The state before the first round; v begins at zero with its first step."""
        return State(params)

    def configure(self, state: State, cohort: Cohort) -> Mapping[ClientId, ClientTask]:
        """The same work for everybody."""
        return Constant().plan(state, cohort)

    def accumulate(self, total: HeldCohort | None, update: ClientUpdate) -> HeldCohort:
        """Hold one more update."""
        return hold(total, update)

    def apply(self, state: State, total: HeldCohort | None) -> tuple[State, Metrics]:
        """Move v, and the model along it."""
        if total is None:
            return idle(state, 0)
        layout = state.params.layout
        v = np.zeros(layout.size, dtype=np.float32)
        if _REFERENCE in state.slots:
            v = state.slots[_REFERENCE].astype(np.float32)
        for _ in range(self.iterations):
            v = clipped_around(v, total, layout, self.tau)
        after, metrics = moved(state, self._optimizer(), Delta(layout, v))
        return replace(after, slots={**after.slots, _REFERENCE: v}), metrics

    def _optimizer(self) -> ServerOptimizer:
        return Sgd(self.lr)


def clipped_around(v: Vector, held: HeldCohort, layout: Layout, tau: float) -> Vector:
    """``v + mean_k (x_k - v) min(1, tau / ||x_k - v||)``, float32 ``[layout.size]``.

    Args:
        v: the centre, float32 ``[layout.size]``.
        held: the updates x.
        layout: the model's.
        tau: the radius.
    """
    squares = np.zeros(len(held))
    for block in held.blocks(layout):
        away = _away(v, block)
        squares += np.einsum("ij,ij->i", away, away, dtype=np.float64)
    shares = np.minimum(1.0, tau / np.maximum(np.sqrt(squares), np.finfo(float).tiny))
    weights = (shares / len(held)).astype(np.float32)
    out = v.copy()
    for block in held.blocks(layout):
        out[block.span] += weights @ _away(v, block)
    return out


def _away(v: Vector, block: Block) -> NDArray[np.float32]:
    """How far each client is from the centre, float32 ``[clients, n]``; zero where it is absent."""
    rows = block.rows
    rows -= v[block.span]
    rows[~block.present] = 0
    return rows
