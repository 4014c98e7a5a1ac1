import inspect
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import pytest

from fedloom.core.component import Option
from fedloom.core.errors import StrategyError
from fedloom.core.layout import Layout, TensorSpec
from fedloom.core.registry import BUILT_IN, Component, create, find
from fedloom.core.types import (
    ClientTask,
    ClientUpdate,
    Cohort,
    Metrics,
    Params,
    State,
)
from fedloom.strategies.base import Strategy
from fedloom.strategies.conformance import check_strategy
from fedloom.strategies.fedavg import fedavg

NEEDED: Mapping[str, Mapping[str, Option]] = {
    "feddyn": {"clients": 8},
    "fltrust": {"root": "client-0"},
    "scaffold": {"clients": 8},
}
"""What a built-in strategy has to be told."""

VARIANTS = [
    *(Component(name, NEEDED.get(name, {})) for name in BUILT_IN["strategies"]),
    *(
        Component(name, {**NEEDED.get(name, {}), "absent": "unchanged"})
        for name in BUILT_IN["strategies"]
        if "absent" in inspect.signature(find("strategies", name)).parameters
    ),
]


@pytest.mark.parametrize("component", VARIANTS, ids=str)
def test_every_built_in_strategy_conforms(component: Component) -> None:
    strategy = cast(Strategy, create("strategies", component))
    check_strategy(strategy)
    check_strategy(strategy, Layout((TensorSpec("one", (1,)),)))


@dataclass
class Wrapped:
    """A strategy that behaves, to be broken in one place by the classes below."""

    inner: Strategy = fedavg()

    def init(self, params: Params) -> State:
        return self.inner.init(params)

    def configure(self, state: State, cohort: Cohort) -> Mapping[str, ClientTask]:
        return self.inner.configure(state, cohort)

    def accumulate(self, total: Any | None, update: ClientUpdate) -> Any:
        return self.inner.accumulate(total, update)

    def apply(self, state: State, total: Any | None) -> tuple[State, Metrics]:
        return self.inner.apply(state, total)


class Raises(Wrapped):
    def configure(self, state: State, cohort: Cohort) -> Mapping[str, ClientTask]:
        raise KeyError("nothing")


class AsksStrangers(Wrapped):
    def configure(self, state: State, cohort: Cohort) -> Mapping[str, ClientTask]:
        return {"stranger": ClientTask("stranger", cohort.round, state.version)}


class ForgetsTheVersion(Wrapped):
    def apply(self, state: State, total: Any | None) -> tuple[State, Metrics]:
        after, metrics = super().apply(state, total)
        return replace(after, version=0), metrics


class Explodes(Wrapped):
    def apply(self, state: State, total: Any | None) -> tuple[State, Metrics]:
        after, metrics = super().apply(state, total)
        nan = after.params.vector * np.float32(np.nan)
        return replace(after, params=Params(after.params.layout, nan)), metrics


class Renames(Wrapped):
    def apply(self, state: State, total: Any | None) -> tuple[State, Metrics]:
        layout = Layout((TensorSpec("other", (state.params.layout.size,)),))
        return State(Params(layout, state.params.vector), state.version + 1), {}


class FirstComeFirstServed(Wrapped):
    def accumulate(self, total: Any | None, update: ClientUpdate) -> Any:
        return total if total is not None else super().accumulate(None, update)


class FloatSum(Wrapped):
    def accumulate(self, total: Any | None, update: ClientUpdate) -> Any:
        assert update.delta is not None
        term = update.delta.vector * np.float32(update.num_examples)
        return term if total is None else total + term

    def apply(self, state: State, total: Any | None) -> tuple[State, Metrics]:
        moved = state.params.vector + (0 if total is None else total)
        return State(Params(state.params.layout, moved), state.version + 1), {}


class Overwrites(Wrapped):
    def apply(self, state: State, total: Any | None) -> tuple[State, Metrics]:
        state.params.vector[0] += np.float32(1)
        return super().apply(state, total)


class OverwritesUpdates(Wrapped):
    def accumulate(self, total: Any | None, update: ClientUpdate) -> Any:
        assert update.delta is not None
        np.multiply(update.delta.vector, 2, out=update.delta.vector)
        return super().accumulate(total, update)


class Remembers(Wrapped):
    rounds = 0

    def apply(self, state: State, total: Any | None) -> tuple[State, Metrics]:
        self.rounds += 1
        after, metrics = super().apply(state, total)
        moved = after.params.vector + np.float32(self.rounds)
        return replace(after, params=Params(after.params.layout, moved)), metrics


class Unsavable(Wrapped):
    def apply(self, state: State, total: Any | None) -> tuple[State, Metrics]:
        after, metrics = super().apply(state, total)
        return replace(after, slots={"names": np.array(["a", "b"], dtype=object)}), metrics


class ForgetsTheState(Wrapped):
    def init(self, params: Params) -> State:
        return cast(State, None)


@dataclass
class CountsClients(Wrapped):
    """Remembers of a client how many came before it."""

    seen: int = 0

    def remembers(self, sent: Layout) -> Layout:
        return sent

    def remember(self, state: State, update: ClientUpdate) -> Params:
        assert update.delta is not None
        layout, self.seen = update.delta.layout, self.seen + 1
        return Params(layout, np.full(layout.size, self.seen, dtype=np.float32))


class NoMetrics(Wrapped):
    def apply(self, state: State, total: Any | None) -> tuple[State, Metrics]:
        return cast(tuple[State, Metrics], super().apply(state, total)[0])


@pytest.mark.parametrize(
    ("strategy", "message"),
    [
        (Raises(), "configure, round 1: raised KeyError: 'nothing'"),
        (AsksStrangers(), "configure, round 1: a task for 'stranger', who is not in the cohort"),
        (ForgetsTheVersion(), "apply, round 1: returned version 0; expected 1"),
        (Explodes(), "apply, round 1: returned parameters that are not finite"),
        (Renames(), "apply, round 1: returned another layout than the model's"),
        (FirstComeFirstServed(), "accumulate: another order of the updates gives another result"),
        (CountsClients(), "the same rounds twice give two results; what changes is for State"),
        (FloatSum(), "accumulate: another order of the updates gives another result"),
        (Overwrites(), "apply: wrote into the arrays"),
        (OverwritesUpdates(), "accumulate: wrote into the delta of an update"),
        (Remembers(), "apply: the same rounds twice give two results"),
        (Unsavable(), "apply, round 1: slot .names. is an array of object"),
        (ForgetsTheState(), "init, round 0: returned NoneType; expected a State"),
        (NoMetrics(), "apply, round 1: returned State; expected a state and metrics"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_broken_strategy_is_named_with_its_fault(strategy: Strategy, message: str) -> None:
    with pytest.raises(StrategyError, match=message):
        check_strategy(strategy)
