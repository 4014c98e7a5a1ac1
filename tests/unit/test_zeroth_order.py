import numpy as np
import pytest
from steps_made import HEAD, MODEL, stepped, whole

from fedloom.core.errors import ConfigError
from fedloom.core.layout import Vector
from fedloom.core.steps import Directions
from fedloom.core.types import Client, ClientUpdate, Cohort, LocalWork, Params, State
from fedloom.strategies.zeroth_order import ZerothOrder, zeroth_order

START = Params(MODEL, np.zeros(MODEL.size, dtype=np.float32))
SHARED = Directions("shared")


def after(strategy: ZerothOrder, state: State, *updates: ClientUpdate) -> State:
    total = None
    for update in updates:
        total = strategy.accumulate(total, update)
    return strategy.apply(state, total)[0]


def head_of(state: State) -> Vector:
    return state.params.vector[40:]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": 0.0}, "lr = 0.0: above 0 and finite"),
        ({"lr": float("inf")}, "lr = inf"),
        ({"shrink": -0.1}, "shrink = -0.1: 0 or more"),
        ({"momentum": 1.0}, r"momentum = 1.0: in \[0, 1\)"),
        ({"weigh": "votes"}, "weigh = 'votes': one of examples, clients"),
    ],
)
def test_settings_out_of_range_are_named(options: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        zeroth_order(**options)  # type: ignore[arg-type]


def test_everybody_gets_the_jobs_work() -> None:
    cohort = Cohort(1, (Client("a", 1),), LocalWork(lr=0.3), seed=7)
    (task,) = zeroth_order().configure(State(START), cohort).values()
    assert (task.work.lr, task.seed, task.batches) == (0.3, 7, 0)


def test_a_round_without_updates_only_counts() -> None:
    state = State(START, 4, {"velocity": np.ones(43, dtype=np.float32)}, {"note": 1})
    after, metrics = zeroth_order().apply(state, None)
    assert (after.version, after.params, metrics) == (5, START, {})
    assert after.slots["velocity"].tolist() == state.slots["velocity"].tolist()


def test_what_is_told_of_a_round() -> None:
    strategy = zeroth_order(shrink=0.0)
    total = strategy.accumulate(None, stepped("a", [3, 0, -4], head=[3.0, 0.0, 4.0]))
    state, metrics = strategy.apply(State(START), total)
    assert metrics["directions"] == 2
    assert metrics["delta_norm"] == pytest.approx(np.linalg.norm(state.params.vector))


def test_momentum_is_of_what_comes_number_by_number() -> None:
    # m = 1, then 0.5 * 1 + 1: 1 + 1.5 in all; steps along directions have none.
    strategy = zeroth_order(shrink=0.0, momentum=0.5)
    update = stepped("a", [4], head=[1.0, 1.0, 1.0])
    one = after(strategy, State(START), update)
    two = after(strategy, one, update)
    np.testing.assert_allclose(head_of(two), 2.5)
    np.testing.assert_allclose(two.params.vector[:40], 2 * one.params.vector[:40])


def test_a_velocity_waits_where_it_has_no_say() -> None:
    strategy = zeroth_order(momentum=0.5)
    one = after(strategy, State(START), whole("a", [1.0] * 3, layout=HEAD))
    two = after(strategy, one, stepped("a", [4]))
    np.testing.assert_allclose(head_of(two), 1.0)
    three = after(strategy, two, whole("a", [1.0] * 3, layout=HEAD))
    np.testing.assert_allclose(head_of(three), 2.5)


def test_clients_can_weigh_alike() -> None:
    updates = (
        whole("a", [1.0] * 3, layout=HEAD, examples=9),
        whole("b", [2.0] * 3, layout=HEAD),
    )
    np.testing.assert_allclose(head_of(after(zeroth_order(), State(START), *updates)), 1.1)
    alike = zeroth_order(weigh="clients")
    np.testing.assert_allclose(head_of(after(alike, State(START), *updates)), 1.5)


def test_the_majority_decides_a_direction() -> None:
    # FeedSign: two of three are for +, however many examples the third has.
    strategy = zeroth_order(shrink=0.0, weigh="clients", vote=True)
    signs = (("a", 1, 1), ("b", 1, 1), ("c", -1, 50))
    updates = [
        stepped(client, [sign], examples=examples, directions=SHARED, coefficient=-0.5)
        for client, sign, examples in signs
    ]
    found = after(strategy, State(START), *updates).params.vector[:40]
    assert updates[0].delta is not None
    assert updates[0].delta.steps is not None
    np.testing.assert_allclose(found, updates[0].delta.steps.vector())
    np.testing.assert_allclose(np.abs(found), 0.5)


def test_a_vote_needs_directions_that_are_shared() -> None:
    assert zeroth_order(vote=True).schemes == ("shared",)
    assert zeroth_order().schemes == ()
