from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import pytest

from fedloom.core.errors import StrategyError
from fedloom.core.layout import Layout, TensorSpec
from fedloom.core.types import Cost, Metrics, Params, RoundReport, State
from fedloom.server.judged import judged
from fedloom.strategies.contract import branches_of
from fedloom.strategies.fedavg import fedavg

LAYOUT = Layout((TensorSpec("a", (1,)), TensorSpec("b", (1,))))
REPORT = RoundReport(3, 2, (), {"loss": 1.0}, Cost())


def params(a: float, b: float = 0.0) -> Params:
    return Params(LAYOUT, np.array([a, b], dtype=np.float32))


STATE = State(params(0), version=3)


def judge(model: Params) -> Metrics:
    return {"accuracy": float(model.vector[0])}


@dataclass
class Chooses:
    """Takes the best of its models."""

    models: Mapping[str, Params]
    versions: int = 0

    def candidates(self, state: State) -> Mapping[str, Params]:
        return self.models

    def told(self, state: State, judged: Mapping[str, Metrics]) -> tuple[State, Metrics]:
        best = max(judged, key=lambda name: judged[name]["accuracy"])
        version = state.version + self.versions
        return replace(state, params=self.models[best], version=version), {"best": 7.0}


@dataclass
class Branches:
    models: Mapping[str, Params]

    def branches(self, state: State) -> Mapping[str, Params]:
        return self.models


def test_a_strategy_is_told_how_well_its_models_do() -> None:
    strategy = Chooses({"x": params(0.2), "y": params(0.9), "z": params(0.5)})
    state, report = judged(strategy, STATE, REPORT, judge)
    assert state.params.vector[0] == np.float32(0.9)
    assert report == replace(REPORT, metrics={"loss": 1.0, "best": 7.0})


def test_without_candidates_nobody_judges() -> None:
    def never(model: Params) -> Metrics:
        raise RuntimeError

    for strategy in (Chooses({}), fedavg()):
        assert judged(strategy, STATE, REPORT, never) == (STATE, REPORT)


def test_the_version_stays() -> None:
    with pytest.raises(StrategyError, match="told, round 3: returned version 4; expected 3"):
        judged(Chooses({"x": params(1)}, versions=1), STATE, REPORT, judge)


def test_what_a_strategy_raises_names_the_hook() -> None:
    with pytest.raises(StrategyError, match="told, round 3: raised KeyError"):
        judged(Chooses({"x": params(1)}), STATE, REPORT, lambda model: {})


@pytest.mark.parametrize(
    ("models", "text"),
    [
        (None, "returned NoneType; expected models by name"),
        ({"x": None}, "'x': NoneType; expected Params"),
        ({"x": params(np.nan)}, "'x': not finite"),
        ({"x": params(1).only(LAYOUT.select(("a",)))}, "'x': of another layout than the model's"),
    ],
)
def test_candidates_are_whole_models(models: Any, text: str) -> None:
    with pytest.raises(StrategyError, match=f"candidates, round 3: {text}"):
        judged(Chooses(models), STATE, REPORT, judge)


def test_branches_are_models_by_name() -> None:
    with pytest.raises(StrategyError, match="branches, round 4: returned list; expected models"):
        branches_of(Branches(cast(Any, [])), STATE)


def test_branches_are_parts_of_the_model() -> None:
    assert branches_of(fedavg(), STATE) == {}
    part = LAYOUT.select(("b",))
    own = {"x": Params(part, np.ones(1, dtype=np.float32))}
    assert branches_of(Branches(own), STATE) == own


@pytest.mark.parametrize(
    ("name", "model", "text"),
    [
        ("", params(1), "a branch without a name"),
        ("x", params(np.nan), "'x' is not finite"),
        (
            "x",
            Params(Layout((TensorSpec("c", (1,)),)), np.zeros(1, dtype=np.float32)),
            "tensor 'c': expected no such tensor",
        ),
    ],
)
def test_branches_that_are_none(name: str, model: Params, text: str) -> None:
    with pytest.raises(StrategyError, match=f"branches, round 4: raised .*{text}"):
        branches_of(Branches({name: model}), STATE)
