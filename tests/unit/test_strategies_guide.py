"""The worked examples of docs/strategies.md keep the contract, and do what the guide says."""

import re
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedloom.core.job import job_from
from fedloom.core.layout import Layout, TensorSpec
from fedloom.core.registry import create
from fedloom.core.types import Client, ClientUpdate, Cohort, Delta, LocalWork, Params, State
from fedloom.strategies import check_strategy

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "strategies.md"
BLOCKS = re.findall(r"```python\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)
LAYOUT = Layout((TensorSpec("w", (2,)),))
START = Params(LAYOUT, np.zeros(2, dtype=np.float32))


def example(name: str) -> Any:
    """What the block that defines `name` calls so."""
    (block,) = [block for block in BLOCKS if re.search(rf"^(class|def) {name}\b", block, re.M)]
    names: dict[str, Any] = {}
    exec(compile(block, str(GUIDE), "exec"), names)
    return names[name]


def update(client: str, values: list[float], examples: int, loss: float = 0.0) -> ClientUpdate:
    delta = Delta(LAYOUT, np.array(values, dtype=np.float32))
    return ClientUpdate(client, 1, examples, delta=delta, metrics={"loss": loss})


def round_of(strategy: Any, state: State, updates: list[ClientUpdate]) -> State:
    total = None
    for each in updates:
        total = strategy.accumulate(total, each)
    after, _ = strategy.apply(state, total)
    assert isinstance(after, State)
    return after


@pytest.mark.parametrize("name", ["equal_votes", "nesterov", "SmallerSteps"])
def test_an_example_keeps_every_promise(name: str) -> None:
    check_strategy(example(name)())


def test_every_block_is_an_example() -> None:
    assert len(BLOCKS) == 4


def test_votes_do_not_count_examples() -> None:
    strategy = example("equal_votes")()
    votes = [update("a", [1.0, 0.0], examples=1000), update("b", [0.0, 1.0], examples=10)]
    after = round_of(strategy, strategy.init(START), votes)
    assert after.params.vector.tolist() == [0.5, 0.5]


def test_momentum_looks_ahead() -> None:
    strategy = example("nesterov")(lr=1.0, momentum=0.5)
    state = strategy.init(START)
    for _ in range(2):
        state = round_of(strategy, state, [update("a", [1.0, 0.0], examples=1)])
    # velocity 1, then 1.5; steps 1 + 0.5 x 1, then 1 + 0.5 x 1.5
    assert state.params.vector.tolist() == [1.5 + 1.75, 0.0]


def test_steps_shrink_while_the_loss_does_not_fall() -> None:
    strategy = example("SmallerSteps")(factor=0.5)
    cohort = Cohort(1, (Client("a", 1),), work=LocalWork(lr=0.1))
    state, rates = strategy.init(START), []
    for number, loss in enumerate((2.0, 1.0, 1.0, 3.0), start=1):
        task = strategy.configure(state, replace(cohort, round=number))["a"]
        rates.append(task.work.lr)
        state = round_of(strategy, state, [update("a", [0.0, 0.0], 1, loss)])
    assert rates == [0.1, 0.1, 0.1, 0.05]
    assert strategy.configure(state, cohort)["a"].work.lr == 0.025


def test_a_composed_strategy_is_the_same_in_a_configuration_and_in_python() -> None:
    (block,) = re.findall(r"```toml\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)
    (stage,) = job_from(tomllib.loads(block)).stages
    assert create("strategies", stage.strategy) == example("in_turns")()
