"""A strategy out of three smaller parts: a planner, an aggregator and a server optimizer."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

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
from fedloom.strategies.base import Aggregator, Exacting, Planner, ServerOptimizer

__all__ = ["Composed", "idle", "moved"]


@dataclass(frozen=True)
class Composed:
    """The named methods of the field are combinations of these three parts.

    Attributes:
        planner: who trains, sends and receives what.
        aggregator: how updates become one mean delta.
        optimizer: how the mean delta moves the model.
    """

    planner: Planner
    aggregator: Aggregator
    optimizer: ServerOptimizer

    def init(self, params: Params) -> State:
        """The state before the first round; the optimizer's arrays begin with its first step."""
        return State(params)

    def configure(self, state: State, cohort: Cohort) -> Mapping[ClientId, ClientTask]:
        """The planner's tasks.

        Raises:
            ConfigError: the aggregator does not work with these clients.
        """
        tasks = self.planner.plan(state, cohort)
        if hasattr(self.aggregator, "check"):
            cast(Exacting, self.aggregator).check(tasks)
        return tasks

    def accumulate(self, total: Any | None, update: ClientUpdate) -> Any:
        """The aggregator's total with one more update; `total` may be written into."""
        return self.aggregator.add(total, update)

    def apply(self, state: State, total: Any | None) -> tuple[State, Metrics]:
        """One step of the optimizer along the mean delta.

        Without updates only the version advances. So it does where clients dropped out and the
        aggregator cannot work with the others: ``updates_lacking`` is then how many it lacks.
        ``delta_norm`` is the mean delta's L2 norm.
        """
        if total is None:
            return idle(state, 0)
        if hasattr(self.aggregator, "lacking"):
            lacking = cast(Exacting, self.aggregator).lacking(total)
            if lacking:
                return idle(state, lacking)
        return moved(state, self.optimizer, self.aggregator.mean(state.params, total))


def idle(state: State, lacking: int) -> tuple[State, Metrics]:
    """A round that changes nothing but the version.

    Args:
        state: before it.
        lacking: updates that were lacking; 0 where none came.
    """
    metrics = {"updates_lacking": float(lacking)} if lacking else {}
    return State(state.params, state.version + 1, state.slots, state.notes), metrics


def moved(state: State, optimizer: ServerOptimizer, delta: Delta) -> tuple[State, Metrics]:
    """The state after one step along a mean delta, and the delta's L2 norm."""
    step = optimizer.step(state, delta)
    params = Params(state.params.layout, step.vector)
    norm = math.sqrt(float(np.square(delta.vector, dtype=np.float64).sum()))
    return State(params, state.version + 1, step.slots, state.notes), {"delta_norm": norm}
