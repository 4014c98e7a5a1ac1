"""A strategy out of three smaller parts: a planner, an aggregator and a server optimizer."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from fedloom.core.types import (
    ClientId,
    ClientTask,
    ClientUpdate,
    Cohort,
    Metrics,
    Params,
    State,
)
from fedloom.strategies.base import Aggregator, Planner, ServerOptimizer

__all__ = ["Composed"]


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
        """The planner's tasks."""
        return self.planner.plan(state, cohort)

    def accumulate(self, total: Any | None, update: ClientUpdate) -> Any:
        """The aggregator's total with one more update; `total` may be written into."""
        return self.aggregator.add(total, update)

    def apply(self, state: State, total: Any | None) -> tuple[State, Metrics]:
        """One step of the optimizer along the mean delta.

        Without updates only the version advances. ``delta_norm`` is the mean delta's L2 norm.
        """
        if total is None:
            return State(state.params, state.version + 1, state.slots, state.notes), {}
        delta = self.aggregator.mean(state.params, total)
        step = self.optimizer.step(state, delta)
        params = Params(state.params.layout, step.vector)
        norm = math.sqrt(float(np.square(delta.vector, dtype=np.float64).sum()))
        return State(params, state.version + 1, step.slots, state.notes), {"delta_norm": norm}
