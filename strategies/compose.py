"""A strategy out of three smaller parts: a planner, an aggregator and a server optimizer."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from fedloom.core.errors import ConfigError
from fedloom.core.layout import Layout
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
from fedloom.strategies.optimizers import Sgd

__all__ = ["Composed", "idle", "moved"]


@dataclass(frozen=True)
class Composed:
    """The named methods of the field are combinations of these three parts.

    Attributes:
        planner: who trains, sends and receives what.
        aggregator: how updates become one mean delta.
        optimizer: how the mean delta moves the model.

    Raises:
        ConfigError: the aggregator says what the model is to be, and the optimizer would go
            elsewhere.
    """

    planner: Planner
    aggregator: Aggregator
    optimizer: ServerOptimizer

    def __post_init__(self) -> None:
        if getattr(self.aggregator, "sets", False) and self.optimizer != Sgd():
            rule = getattr(self.aggregator, "rule", self.aggregator)
            name = getattr(rule, "name", type(rule).__name__)
            text = f"{name} says what the model is to be: only SGD with lr = 1 goes there"
            raise ConfigError(f"optimizer = {self.optimizer}: {text}")

    @property
    def takes_ranks(self) -> bool:
        """Whether updates may have a part of the adapter's rank."""
        return bool(getattr(self.aggregator, "takes_ranks", False))

    @property
    def deals_ranks(self) -> bool:
        """Whether clients are asked for a part of it by the planner's own rule."""
        return bool(getattr(self.planner, "deals_ranks", False))

    def check_model(self, layout: Layout) -> None:
        """Look whether a model has what planner and aggregator need.

        Raises:
            ConfigError: it lacks something.
        """
        for part in (self.planner, self.aggregator):
            if hasattr(part, "check_model"):
                part.check_model(layout)

    def init(self, params: Params) -> State:
        """The state before the first round; the optimizer's arrays begin with its first step."""
        self.check_model(params.layout)
        return State(params)

    def configure(self, state: State, cohort: Cohort) -> Mapping[ClientId, ClientTask]:
        """The planner's tasks.

        Raises:
            ConfigError: the aggregator does not work with these clients.
        """
        tasks = self.planner.plan(state, cohort)
        if hasattr(self.aggregator, "check_cohort"):
            cast(Exacting, self.aggregator).check_cohort(tasks)
        return tasks

    def accumulate(self, total: Any | None, update: ClientUpdate) -> Any:
        """The aggregator's total with one more update; `total` may be written into."""
        return self.aggregator.add(total, update)

    def apply(self, state: State, total: Any | None) -> tuple[State, Metrics]:
        """One step of the optimizer along the mean delta.

        Without updates only the version advances. So it does where clients dropped out and the
        aggregator cannot work with the others: ``updates_lacking`` is then how many it lacks.
        ``delta_norm`` is the mean delta's L2 norm; beside it stands what the aggregator has
        measured.
        """
        if total is None:
            return idle(state, 0)
        if hasattr(self.aggregator, "lacking"):
            lacking = cast(Exacting, self.aggregator).lacking(total)
            if lacking:
                return idle(state, lacking)
        delta, measured = self._mean(state, total)
        after, metrics = moved(state, self.optimizer, delta)
        return after, {**metrics, **measured}

    def _mean(self, state: State, total: Any) -> tuple[Delta, Metrics]:
        measure = getattr(self.aggregator, "measured", None)
        if measure is None:
            return self.aggregator.mean(state.params, total), {}
        found: tuple[Delta, Metrics] = measure(state.params, total)
        return found


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
