"""Models that move along random directions: scalars come up, and the server makes the step.

The default for devices that cannot backpropagate: every client has directions of its own, so that
all of a cohort's directions add to the estimate; its step is as long as the estimate is good.

FeedSign (Cai, Chen and Zhu, 2025) and DeComFL (Li et al., ICLR 2025) are settings of it: one set of
directions for all clients, and for FeedSign a vote on the sign of each.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from fedloom.core.advance import Advance
from fedloom.core.errors import require
from fedloom.core.step_ledger import advanced, unmoved
from fedloom.core.types import (
    Briefing,
    ClientId,
    ClientTask,
    ClientUpdate,
    Cohort,
    Delta,
    Metrics,
    Params,
    State,
)
from fedloom.strategies.base import Planner
from fedloom.strategies.guided import along_guide, next_guide, without_guide
from fedloom.strategies.plan import Constant
from fedloom.strategies.step_total import StepTotal, add_update, advance_of, voted

__all__ = ["WEIGHINGS", "ZerothOrder", "applied", "weighed", "zeroth_order"]

WEIGHINGS = ("examples", "clients")
"""What an update weighs: its examples, or as much as any other."""


@dataclass(frozen=True)
class ZerothOrder:
    """The mean of clients' steps along known directions, and of what they send beside them.

    Attributes:
        planner: who trains what.
        lr: server learning rate.
        shrink: share of the dimension that counts as noise; see `advance_of`.
        momentum: share of its velocity that what is sent number by number keeps from round to
            round. Steps along random directions have none: it would add up their noise.
        weigh: ``examples`` or ``clients``: what an update weighs in the mean.
        vote: each direction moves by the sign that most of the weight is for.
        anchor_every: rounds after which a pool of directions begins again; see `advanced`.
        guide: share that a guide keeps from round to round of where the model has been going;
            clients measure the slope along it as well (`strategies.guided`). 0 for no guide.
    """

    planner: Planner = Constant()
    lr: float = 1.0
    shrink: float = 0.2
    momentum: float = 0.0
    weigh: str = "examples"
    vote: bool = False
    anchor_every: int = 0
    guide: float = 0.0

    def __post_init__(self) -> None:
        require(0 < self.lr < math.inf, "lr", self.lr, "above 0 and finite")
        require(0 <= self.shrink < math.inf, "shrink", self.shrink, "0 or more, and finite")
        require(0 <= self.momentum < 1, "momentum", self.momentum, "in [0, 1)")
        require(self.weigh in WEIGHINGS, "weigh", self.weigh, f"one of {', '.join(WEIGHINGS)}")
        require(self.anchor_every >= 0, "anchor_every", self.anchor_every, "0 (never) or more")
        require(0 <= self.guide < 1, "guide", self.guide, "in [0, 1)")

    @property
    def schemes(self) -> tuple[str, ...]:
        """Whose directions it can go along; any where none is named."""
        return ("shared",) if self.vote else ("distinct",) if self.guide else ()

    def init(self, params: Params) -> State:
        """The state before the first round."""
        return State(params)

    def configure(self, state: State, cohort: Cohort) -> Mapping[ClientId, ClientTask]:
        """The planner's tasks."""
        return self.planner.plan(state, cohort)

    def briefing(self, state: State) -> Briefing:
        """The guide, where there is one: float32 over the tensors that move."""
        return {"guide": state.slots["guide"]} if "guide" in state.slots else {}

    def accumulate(self, total: StepTotal | None, update: ClientUpdate) -> StepTotal:
        """The total with one more update; `total` is written into."""
        return add_update(total, weighed(update, self.weigh))

    def apply(self, state: State, total: StepTotal | None) -> tuple[State, Metrics]:
        """The model after the mean step; without updates only the version advances."""
        if total is None:
            return unmoved(state), {}
        counted = voted(total) if self.vote else total
        guide = np.asarray(state.slots.get("guide", ()), dtype=np.float32)
        counted, along = without_guide(counted, guide) if guide.size else (counted, {})
        advance = advance_of(state.params, counted, lr=self.lr, shrink=self.shrink)
        if self.momentum:
            state, advance = self._with_velocity(state, advance)
        if guide.size:
            advance = along_guide(advance, counted, along, guide, lr=self.lr)
        after, metrics = applied(state, advance, counted, anchor_every=self.anchor_every)
        return self._with_guide(state, after, counted), metrics

    def _with_guide(self, before: State, after: State, total: StepTotal) -> State:
        found = next_guide(before, after, total, self.guide) if self.guide else None
        return after if found is None else replace(after, slots={**after.slots, "guide": found})

    def _with_velocity(self, state: State, advance: Advance) -> tuple[State, Advance]:
        """``m <- momentum m + rest``, and the rest moves by m; where it has no say, m waits."""
        layout, rest = state.params.layout, advance.rest.layout
        before = state.slots.get("velocity", np.zeros(layout.size, dtype=np.float32))
        velocity = before.astype(np.float32)
        for here, there in layout.spans(rest):
            velocity[here] *= np.float32(self.momentum)
            velocity[here] += advance.rest.vector[there]
        moved = replace(advance, rest=Delta(rest, layout.gather(velocity, rest)))
        return replace(state, slots={**state.slots, "velocity": velocity}), moved


def weighed(update: ClientUpdate, weigh: str) -> ClientUpdate:
    """An update that counts as its examples, or as much as any other client's."""
    return update if weigh == "examples" else replace(update, num_examples=1)


def applied(
    state: State, advance: Advance, total: StepTotal, *, anchor_every: int = 0
) -> tuple[State, Metrics]:
    """The state after an advance; ``directions`` that moved it, and the L2 norm of the move.

    Args:
        state: the state before the round.
        advance: what the round did.
        total: of the round.
        anchor_every: rounds after which a pool of directions begins again (see `advanced`).
    """
    seed = next((kind.seed for kind in total.steps), 0)
    step = min((abs(kind.coefficient) for kind in total.steps), default=0.0)
    after = advanced(state, advance, seed, step=step, anchor_every=anchor_every)
    change = after.params.vector.astype(np.float64) - state.params.vector
    metrics = {
        "delta_norm": float(np.linalg.norm(change)),
        "directions": float(sum(found.used for found in total.steps.values())),
    }
    return after, metrics


def zeroth_order(
    lr: float = 1.0,
    shrink: float = 0.2,
    momentum: float = 0.0,
    weigh: str = "examples",
    vote: bool = False,
    anchor_every: int = 0,
    guide: float = 0.0,
) -> ZerothOrder:
    """Move along the mean of clients' steps along random directions, as far as they can be trusted.

    Args:
        lr: server learning rate.
        shrink: share of the dimension that counts as noise; the step is scaled by
            ``N / (N + shrink d)`` for N directions in d dimensions (0: not scaled).
        momentum: share of its velocity that what is sent number by number keeps, such as an exact
            head; steps along random directions have none.
        weigh: ``examples`` or ``clients``: what an update weighs in the mean.
        vote: each direction moves by the sign that most of the weight is for, as in FeedSign.
        anchor_every: rounds after which the sums of a pool of directions begin again, from the
            model that is reached then (0: when they outgrow 32 bits).
        guide: share that a guide keeps from round to round of where the model has been going; for
            the learner's ``guided = true`` (0: no guide).

    Raises:
        ConfigError: an argument is out of range.
    """
    return ZerothOrder(Constant(), lr, shrink, momentum, weigh, vote, anchor_every, guide)
