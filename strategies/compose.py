"""A strategy out of three smaller parts: a planner, an aggregator and a server optimizer."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

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
from fedloom.strategies.base import Aggregator, Planner, ServerOptimizer
from fedloom.strategies.optimizers import Sgd

__all__ = ["Composed"]


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
            name = type(self.aggregator).__name__
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

    def check(self, layout: Layout) -> None:
        """Look whether a model has what planner and aggregator need.

        Raises:
            ConfigError: it lacks something.
        """
        for part in (self.planner, self.aggregator):
            if hasattr(part, "check"):
                part.check(layout)

    def init(self, params: Params) -> State:
        """The state before the first round; the optimizer's arrays begin with its first step."""
        self.check(params.layout)
        return State(params)

    def configure(self, state: State, cohort: Cohort) -> Mapping[ClientId, ClientTask]:
        """The planner's tasks."""
        return self.planner.plan(state, cohort)

    def accumulate(self, total: Any | None, update: ClientUpdate) -> Any:
        """The aggregator's total with one more update; `total` may be written into."""
        return self.aggregator.add(total, update)

    def apply(self, state: State, total: Any | None) -> tuple[State, Metrics]:
        """One step of the optimizer along the mean delta.

        Without updates only the version advances. ``delta_norm`` is the mean delta's L2 norm;
        beside it stands what the aggregator has measured.
        """
        if total is None:
            return State(state.params, state.version + 1, state.slots, state.notes), {}
        delta, measured = self._mean(state, total)
        step = self.optimizer.step(state, delta)
        params = Params(state.params.layout, step.vector)
        norm = math.sqrt(float(np.square(delta.vector, dtype=np.float64).sum()))
        metrics = {"delta_norm": norm, **measured}
        return State(params, state.version + 1, step.slots, state.notes), metrics

    def _mean(self, state: State, total: Any) -> tuple[Delta, Metrics]:
        measure = getattr(self.aggregator, "measured", None)
        if measure is None:
            return self.aggregator.mean(state.params, total), {}
        found: tuple[Delta, Metrics] = measure(state.params, total)
        return found
