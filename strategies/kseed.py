"""Federated full-parameter tuning by a pool of directions: FedKSeed and FedKSeed-Pro.

Qin, Chen, Qian, Ding, Li and Deng, "Federated Full-Parameter Tuning of Billion-Sized Language
Models with Communication Cost under 18 Kilobytes", ICML 2024, https://arxiv.org/abs/2312.06353;
FedKSeed-Pro has the probabilities. A client sends what each direction of the pool has moved it; the
server adds the means up, direction by direction.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from fedloom.core.errors import require
from fedloom.core.step_ledger import unmoved
from fedloom.core.types import (
    Briefing,
    ClientId,
    ClientTask,
    ClientUpdate,
    Cohort,
    Metrics,
    Params,
    State,
)
from fedloom.strategies.base import Planner
from fedloom.strategies.plan import Constant
from fedloom.strategies.step_total import StepTotal, add_update, advance_of
from fedloom.strategies.zeroth_order import WEIGHINGS, applied, weighed

__all__ = ["KSeed", "PoolTotal", "fedkseed", "odds_of"]


@dataclass(eq=False)
class PoolTotal:
    """A round's total, and how far clients moved along each direction, whichever way.

    Attributes:
        steps: of the round.
        sizes: by what a step is worth: ``sum |scalar|`` over clients, int64 ``[pool]``.
        counts: clients that moved along each direction, int64 ``[pool]``.
    """

    steps: StepTotal
    sizes: dict[float, NDArray[np.int64]] = field(default_factory=dict)
    counts: NDArray[np.int64] | None = None


@dataclass(frozen=True)
class KSeed:
    """The mean of clients' steps along the directions of a pool.

    Attributes:
        planner: who trains what.
        lr: server learning rate; with 1, the mean of the clients' models.
        pro: tell clients the probability of each direction (FedKSeed-Pro).
        weigh: ``examples`` or ``clients``: what an update weighs in the mean.
        anchor_every: rounds after which the sums begin again from the model that is reached then
            (0: where they would leave 32 bits).
    """

    planner: Planner = Constant()
    lr: float = 1.0
    pro: bool = False
    weigh: str = "examples"
    anchor_every: int = 0

    schemes = ("pool",)
    """Whose directions it can go along."""

    def __post_init__(self) -> None:
        require(0 < self.lr < math.inf, "lr", self.lr, "above 0 and finite")
        require(self.weigh in WEIGHINGS, "weigh", self.weigh, f"one of {', '.join(WEIGHINGS)}")
        require(self.anchor_every >= 0, "anchor_every", self.anchor_every, "0 or more")

    def init(self, params: Params) -> State:
        """The state before the first round."""
        return State(params)

    def configure(self, state: State, cohort: Cohort) -> Mapping[ClientId, ClientTask]:
        """The planner's tasks."""
        return self.planner.plan(state, cohort)

    def briefing(self, state: State) -> Briefing:
        """``odds``: the probability of each direction, float32 ``[pool]``; none before the first
        update, when all are alike."""
        if not self.pro or "history.sizes" not in state.slots:
            return {}
        sizes, counts = state.slots["history.sizes"], state.slots["history.counts"]
        return {"odds": odds_of(sizes.astype(np.float64), counts.astype(np.int64))}

    def accumulate(self, total: PoolTotal | None, update: ClientUpdate) -> PoolTotal:
        """The total with one more update; `total` is written into."""
        known = None if total is None else total.steps
        whole = PoolTotal(add_update(known, weighed(update, self.weigh)))
        if total is not None:
            whole.sizes, whole.counts = total.sizes, total.counts
        steps = None if update.delta is None else update.delta.steps
        if self.pro and steps is not None:
            sizes = np.abs(steps.scalars.astype(np.int64))
            worth = abs(steps.coefficient)
            whole.sizes[worth] = whole.sizes.get(worth, 0) + sizes
            whole.counts = (0 if whole.counts is None else whole.counts) + (sizes > 0)
        return whole

    def apply(self, state: State, total: PoolTotal | None) -> tuple[State, Metrics]:
        """The model after the mean step; without updates only the version advances."""
        if total is None:
            return unmoved(state), {}
        advance = advance_of(state.params, total.steps, lr=self.lr, shrink=0.0)
        every = self.anchor_every
        after, metrics = applied(state, advance, total.steps, anchor_every=every)
        if total.counts is not None:
            after = replace(after, slots={**after.slots, **_history(state, total, total.counts)})
        return after, metrics


def odds_of(sizes: NDArray[np.float64], counts: NDArray[np.int64]) -> NDArray[np.float32]:
    """The probability of each direction of a pool, by how far it moved the clients.

    The mean sizes are scaled to 0 .. 1, and their softmax is taken: no direction is more than e
    times as likely as another.

    Args:
        sizes: sum of the magnitudes of all steps along each, ``[pool]``.
        counts: how many those were, the 0 that each direction begins with among them.

    Returns:
        float32 ``[pool]``.
    """
    mean = sizes / counts
    scaled = (mean - mean.min()) / (mean.max() - mean.min() + 1e-10)
    chances = np.exp(scaled)
    found: NDArray[np.float32] = (chances / chances.sum()).astype(np.float32)
    return found


def _history(
    state: State, total: PoolTotal, counts: NDArray[np.int64]
) -> Mapping[str, NDArray[np.generic]]:
    before = state.slots.get("history.sizes", np.zeros(len(counts))).astype(np.float64)
    seen = state.slots.get("history.counts", np.ones(len(counts), dtype=np.int64))
    for worth, sizes in sorted(total.sizes.items()):
        before = before + worth * sizes
    return {"history.sizes": before, "history.counts": seen.astype(np.int64) + counts}


def fedkseed(
    lr: float = 1.0, pro: bool = False, weigh: str = "examples", anchor_every: int = 0
) -> KSeed:
    """Add up the mean steps along a pool of directions (FedKSeed; ``pro``: FedKSeed-Pro).

    Args:
        lr: server learning rate; with 1, the mean of the clients' models.
        pro: let clients draw directions by how far these have moved clients so far.
        weigh: ``examples`` or ``clients``: what an update weighs in the mean.
        anchor_every: rounds after which the pool's sums begin again from the model that is reached
            then (0: where they would leave 32 bits); clients then fetch that model.

    Raises:
        ConfigError: an argument is out of range.
    """
    return KSeed(Constant(), lr, pro, weigh, anchor_every)
