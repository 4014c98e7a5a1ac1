"""Trials by hand: two layers of two units, each tensor one number, and a head."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from fedloom.core.cost import Cost
from fedloom.core.errors import ConfigError
from fedloom.core.layout import Layout, TensorSpec
from fedloom.core.types import (
    Client,
    ClientTask,
    ClientUpdate,
    Cohort,
    Delta,
    Metrics,
    Params,
    Selectors,
    State,
)
from fedloom.strategies.fedadapter import FedAdapter
from fedloom.strategies.ladder import Configuration


def spec(layer: int, unit: int) -> TensorSpec:
    tags = frozenset({"bottleneck", f"unit.{unit}"})
    return TensorSpec(f"l{layer}.u{unit}", (1,), f"layer.{layer}", tags)


HEAD = TensorSpec("head", (1,), "head", frozenset({"head"}))
LAYOUT = Layout((spec(0, 0), spec(0, 1), spec(1, 0), spec(1, 1), HEAD))
CLIENTS = tuple(Client(f"c{i}", 1) for i in range(6))
TRAIN = Selectors(train=("bottleneck", "head"))
STRATEGY = FedAdapter(depth=1, interval=1.0, expand=3.0)  # a trial at depth 1 takes 4 s
SECONDS = {"same": 1.0, "deeper": 2.5, "wider": 1.5}
STEP = {"same": 1.0, "deeper": 10.0, "wider": 100.0}
Names = dict[str, list[str]]


def begun() -> State:
    return STRATEGY.init(Params(LAYOUT, np.zeros(5, dtype=np.float32)))


def cohort(state: State) -> Cohort:
    return Cohort(state.version + 1, CLIENTS, selectors=TRAIN)


def update(task: ClientTask, seconds: Mapping[str, float] = SECONDS) -> ClientUpdate:
    layout = task.selectors.sent(LAYOUT)
    delta = Delta(layout, np.full(layout.size, STEP[task.branch], dtype=np.float32))
    cost = Cost(device_seconds=seconds[task.branch])
    return ClientUpdate(task.client, task.round, 1, delta=delta, cost=cost)


def played(state: State, strategy: FedAdapter = STRATEGY) -> tuple[State, Metrics, Names]:
    """The state after a round, and who was in which group."""
    total: Any = None
    groups: Names = {}
    for name, task in strategy.configure(state, cohort(state)).items():
        total = strategy.accumulate(total, update(task))
        groups.setdefault(task.branch, []).append(name)
    return *strategy.apply(state, total), groups


def tried(strategy: FedAdapter = STRATEGY) -> tuple[State, list[Names]]:
    """The state at the end of the first trial, and the groups of its rounds."""
    state, rounds = begun(), []
    while not strategy.candidates(state):
        state, _, groups = played(state, strategy)
        rounds.append(groups)
    return state, rounds


def test_three_groups_train_their_own_configuration_from_one_model() -> None:
    state = begun()
    tasks = STRATEGY.configure(state, cohort(state))
    sent = {task.branch: task.selectors.sent(LAYOUT).names for task in tasks.values()}
    assert sent == {
        "same": ("l1.u0", "head"),
        "deeper": ("l0.u0", "l1.u0", "head"),
        "wider": ("l1.u0", "l1.u1", "head"),
    }
    branches = STRATEGY.branches(state)
    assert {name: own.layout.names for name, own in branches.items()} == sent
    assert not any(own.vector.any() for own in branches.values())


def test_each_plays_the_rounds_that_fit_its_interval() -> None:
    # 4 s: four rounds of 1 s, one of 2.5 s, two of 1.5 s.
    state, rounds = tried()
    assert [sorted(groups) for groups in rounds] == [
        ["deeper", "same", "wider"],
        ["same", "wider"],
        ["same"],
        ["same"],
    ]
    assert all(len(names) == 2 for groups in rounds for names in groups.values())
    models = {name: own.vector.tolist() for name, own in STRATEGY.candidates(state).items()}
    assert models == {
        "same": [0, 0, 4, 0, 4],
        "deeper": [10, 0, 10, 0, 10],
        "wider": [0, 0, 200, 200, 200],
    }
    assert state.params.vector.tolist() == models["same"]


def test_the_clock_is_that_of_groups_side_by_side() -> None:
    state, clock = begun(), []
    for _ in range(4):
        state, metrics, _ = played(state)
        clock.append(metrics["clock"])
    assert clock == [2.5, 3.0, 3.0, 4.0]  # the longest of 1, 2.5, 1.5; 2, 2.5, 3; 3; and 4
    after, metrics = STRATEGY.told(state, {name: {"accuracy": 0.5} for name in SECONDS})
    assert metrics["clock"] == 4.0
    _, metrics, _ = played(after)
    assert metrics["clock"] == 6.5


def test_the_first_round_is_played_whatever_it_takes() -> None:
    hurried = replace(STRATEGY, interval=0.01)
    state, rounds = tried(hurried)
    assert [sorted(groups) for groups in rounds] == [["deeper", "same", "wider"]]
    assert len(hurried.candidates(state)) == 3


@pytest.mark.parametrize(
    ("accuracy", "winner"),
    [
        ({"same": 0.5, "deeper": 0.6, "wider": 0.4}, "deeper"),
        ({"same": 0.5, "deeper": 0.5, "wider": 0.5}, "same"),
        ({"same": 0.4, "deeper": 0.5, "wider": 0.5}, "wider"),
        ({"same": 0.9, "deeper": 1.0, "wider": 5e-2}, "deeper"),  # "5e-2" is the largest string
        ({"same": float("nan"), "deeper": 0.1, "wider": 0.0}, "deeper"),
    ],
)
def test_everybody_inherits_from_the_most_accurate(accuracy: dict[str, float], winner: str) -> None:
    state, _ = tried()
    groups, models = STRATEGY.groups(state), STRATEGY.candidates(state)
    after, metrics = STRATEGY.told(state, {n: {"accuracy": a} for n, a in accuracy.items()})
    assert after.params.vector.tolist() == models[winner].vector.tolist()
    assert STRATEGY.groups(after)["same"] == groups[winner]
    assert (metrics["depth"], metrics["units"]) == (groups[winner].depth, groups[winner].units)
    assert after.version == state.version
    assert not after.slots
    for own in STRATEGY.branches(after).values():  # the next trial starts from it
        assert (
            own.vector.tolist()
            == after.params.layout.gather(after.params.vector, own.layout).tolist()
        )


def test_without_accuracy_the_smaller_loss_wins() -> None:
    state, _ = tried()
    losses = {"same": 2.0, "deeper": 3.0, "wider": 1.0}
    after, metrics = STRATEGY.told(state, {name: {"loss": loss} for name, loss in losses.items()})
    assert STRATEGY.groups(after)["same"] == Configuration(1, 2)
    assert metrics["trial/deeper"] == -3.0


def test_without_any_evaluation_it_says_so() -> None:
    state, _ = tried()
    with pytest.raises(ConfigError, match="nobody evaluates"):
        STRATEGY.told(state, {name: {} for name in SECONDS})


def test_the_ladder_ends_at_the_caps() -> None:
    state = replace(begun(), notes={"depth": 2, "units": 2})
    assert STRATEGY.groups(state) == {"same": Configuration(2, 2)}
    assert len(STRATEGY.configure(state, cohort(state))) == len(CLIENTS)


def test_the_head_alone_has_nothing_to_widen() -> None:
    assert FedAdapter().groups(begun()) == {
        "same": Configuration(0, 1),
        "deeper": Configuration(1, 1),
    }


def test_trials_of_deeper_configurations_are_longer() -> None:
    # interval (expand d + 1): 4 s at depth 1, 7 s at depth 2.
    state, rounds = replace(begun(), notes={"depth": 2, "units": 2}), 0
    while not STRATEGY.candidates(state):
        state, _, _ = played(state)
        rounds += 1
    assert rounds == 7


def test_without_a_device_model_a_round_is_a_second() -> None:
    state, total = begun(), None
    for task in STRATEGY.configure(state, cohort(state)).values():
        total = STRATEGY.accumulate(total, update(task, dict.fromkeys(SECONDS, 0.0)))
    _, metrics = STRATEGY.apply(state, total)
    assert metrics["clock"] == 1.0


def test_the_slowest_client_of_a_group_counts() -> None:
    state, total = begun(), None
    for number, task in enumerate(STRATEGY.configure(state, cohort(state)).values()):
        seconds = dict.fromkeys(SECONDS, 1.0 + number)
        total = STRATEGY.accumulate(total, update(task, seconds))
    after, metrics = STRATEGY.apply(state, total)
    spent = sorted(float(v) for k, v in after.notes.items() if k.startswith("spent/"))
    assert spent == [4.0, 5.0, 6.0]
    assert metrics["clock"] == 6.0


def test_with_fewer_clients_than_groups_each_has_its_turn() -> None:
    state, seen = begun(), []
    for _ in range(3):
        alone = Cohort(state.version + 1, CLIENTS[:1], selectors=TRAIN)
        (task,) = STRATEGY.configure(state, alone).values()
        state, _ = STRATEGY.apply(state, STRATEGY.accumulate(None, update(task)))
        seen.append(task.branch)
    assert sorted(seen) == ["deeper", "same", "wider"]


def test_a_group_without_answers_plays_again() -> None:
    state = begun()
    total = None
    for task in STRATEGY.configure(state, cohort(state)).values():
        if task.branch != "deeper":
            total = STRATEGY.accumulate(total, update(task))
    state, _ = STRATEGY.apply(state, total)
    assert "spent/deeper" not in state.notes
    assert not STRATEGY.candidates(state)


def test_an_update_of_no_group_is_an_error() -> None:
    state = begun()
    part = LAYOUT.select(("l0.u1",))
    odd = ClientUpdate("c0", 1, 1, delta=Delta(part, np.zeros(1, dtype=np.float32)))
    with pytest.raises(ConfigError, match="lack tensors which their group trains"):
        STRATEGY.apply(state, STRATEGY.accumulate(None, odd))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"depth": -1}, "depth = -1: 0"),
        ({"units": 0}, "units = 0: 1 or more"),
        ({"interval": 0.0}, "interval = 0.0: above 0"),
    ],
)
def test_options_out_of_range(options: dict[str, float], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        FedAdapter(**options)  # type: ignore[arg-type]  # one of each type
