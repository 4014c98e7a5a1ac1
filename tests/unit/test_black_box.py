from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fedloom.core.checkpoint import load_state, save_state
from fedloom.core.errors import ConfigError, UpdateRefusedError
from fedloom.core.layout import Layout, TensorSpec
from fedloom.core.scalars import step_for
from fedloom.core.steps import Directions, Steps
from fedloom.core.subspaces import Subspace
from fedloom.core.types import Client, ClientUpdate, Cohort, Delta, Params, Selectors, State
from fedloom.strategies.black_box import BBTv2, fed_bbpt

PROMPTS = Layout(tuple(TensorSpec(f"p{i}", (4, 5), f"layer.{i}") for i in range(2)))
MODEL = Layout((*PROMPTS.specs, TensorSpec("head", (6,), "head", frozenset({"head"}))))
SEED = 11
CLIENTS = (Client("a", 3), Client("b", 1))
WORTH = step_for(2.0)


def strategy(**options: Any) -> BBTv2:
    return BBTv2(**{"k": 6, "popsize": 8, "alpha": 1.0, **options})


def fresh() -> State:
    vector = np.random.default_rng(0).normal(size=MODEL.size).astype(np.float32)
    return State(Params(MODEL, vector))


def cohort(number: int) -> Cohort:
    selectors = Selectors(train=("p*",))
    return Cohort(number, CLIENTS, selectors=selectors, seed=SEED)


def loss(vector: NDArray[np.float32]) -> float:
    """Lowest where every number of the prompts is 1/2."""
    return float(np.square(vector[: PROMPTS.size].astype(np.float64) - 0.5).mean())


def answer(client: Client, layout: Layout, losses: NDArray[np.float64]) -> ClientUpdate:
    scalars = np.clip(np.rint(losses / WORTH), -32767, 32767).astype(np.int32)
    steps = Steps(layout, scalars, WORTH, Directions("shared"))
    bound = steps.bound(SEED, round=1, client=client.id)
    nothing = np.zeros(0, dtype=np.float32)
    return ClientUpdate(client.id, 1, client.num_examples, delta=Delta(Layout(()), nothing, bound))


def told(state: State, layout: Layout, briefing: Any) -> NDArray[np.float64]:
    """What a client finds that evaluates the candidates."""
    if not briefing:
        return np.zeros(1)
    points = briefing["points"].astype(np.int64)
    pool = Directions("pool", int(briefing["pool"][0]))
    first, worth = int(briefing["first"][0]), float(briefing["worth"][0])
    space = Subspace(layout, pool, first, points.shape[1], worth)
    found = []
    for change in space.changes(points, SEED):
        vector = state.params.vector.copy()
        for here, there in MODEL.spans(layout):
            vector[here] += change[there]
        found.append(loss(vector) - loss(state.params.vector))
    return np.array(found)


def played(rule: BBTv2, state: State, rounds: int) -> State:
    for _ in range(rounds):
        number = state.version + 1
        tasks = rule.configure(state, cohort(number))
        layout = MODEL.select(tasks["a"].selectors.train)
        losses = told(state, layout, rule.briefing(state))
        total = None
        for client in CLIENTS:
            total = rule.accumulate(total, answer(client, layout, losses))
        state, _ = rule.apply(state, total)
    return state


def test_the_first_round_asks_for_the_model_as_it_is() -> None:
    rule, state = strategy(), fresh()
    task = rule.configure(state, cohort(1))["a"]
    assert rule.briefing(state) == {}
    assert task.selectors.train == ("p*",)
    assert task.learner is not None
    assert task.learner.name == "black-box"
    assert task.codec is not None
    assert task.codec.name == "scalars"
    after = played(rule, state, 1)
    assert after.version == 1
    assert after.params.vector.tobytes() == state.params.vector.tobytes()
    assert (after.notes["seed"], after.notes["blocks"]) == (SEED, 2)


def test_blocks_take_turns_in_subspaces_of_their_own() -> None:
    rule, state = strategy(), played(strategy(), fresh(), 1)
    seen = []
    for _ in range(3):
        task = rule.configure(state, cohort(state.version + 1))["a"]
        briefing = rule.briefing(state)
        assert briefing["points"].dtype == np.int16
        assert briefing["points"].shape == (8, 6)
        seen.append((task.selectors.train, int(briefing["first"][0])))
        state = played(rule, state, 1)
    assert seen == [(("p0",), 0), (("p1",), 6), (("p0",), 0)]


def test_the_search_lowers_the_loss_and_touches_nothing_else() -> None:
    rule, state = strategy(), fresh()
    after = played(rule, state, 101)
    assert loss(after.params.vector) < 0.9 * loss(state.params.vector)
    assert after.params.vector[-6:].tobytes() == state.params.vector[-6:].tobytes()


def test_a_block_moves_to_the_best_candidate_or_stays() -> None:
    rule, state = strategy(), played(strategy(), fresh(), 1)
    layout = MODEL.select(("p0",))
    points = rule.briefing(state)["points"].astype(np.int64)
    worth = float(rule.briefing(state)["worth"][0])
    losses = np.array([0.3, -0.1, -0.4, 0.2, 0.0, 0.1, 0.5, -0.2])
    moved, metrics = rule.apply(state, rule.accumulate(None, answer(CLIENTS[0], layout, losses)))
    space = Subspace(layout, Directions("pool", 12), 0, 6, worth)
    want = state.params.vector[:20] + space.changes(points[2:3], SEED)[0]
    np.testing.assert_array_equal(moved.params.vector[:20], want)
    assert metrics["best_change"] == pytest.approx(-0.4, abs=WORTH)
    worse = rule.accumulate(None, answer(CLIENTS[0], layout, np.abs(losses) + 0.1))
    stayed, _ = rule.apply(state, worse)
    assert stayed.params.vector.tobytes() == state.params.vector.tobytes()
    assert stayed.notes["turn"] == 1


def test_the_middle_of_the_search_is_another_choice() -> None:
    rule = strategy(take="mean")
    state = played(rule, fresh(), 1)
    layout = MODEL.select(("p0",))
    worse = rule.accumulate(None, answer(CLIENTS[0], layout, np.arange(1.0, 9.0) / 8))
    moved, _ = rule.apply(state, worse)
    assert moved.params.vector.tobytes() != state.params.vector.tobytes()
    assert np.abs(moved.slots["points"][0]).max() > 0


def test_losses_weigh_as_examples() -> None:
    # a has 3 examples and b has 1: (3 * 8 + 1 * 0) / 4 = 6 steps, (3 * 0 + 1 * 4) / 4 = 1.
    layout = MODEL.select(("p0",))
    ours = np.array([8.0, 0, 0, 0, 0, 0, 0, 0]) * WORTH
    theirs = np.array([0, 4.0, 0, 0, 0, 0, 0, 0]) * WORTH
    found = []
    for pair in ((ours, theirs), (theirs, ours)):
        clients = CLIENTS if pair[0] is ours else CLIENTS[::-1]
        total = None
        for client, losses in zip(clients, pair, strict=True):
            total = strategy().accumulate(total, answer(client, layout, losses))
        assert total is not None
        mean = total.of(8)
        assert mean is not None
        found.append((mean.mean / WORTH).tolist())
    assert found[0] == found[1] == [6.0, 1.0, 0, 0, 0, 0, 0, 0]


def test_a_state_from_a_file_asks_the_same_candidates_to_the_bit(tmp_path: Path) -> None:
    rule = strategy()
    state = played(rule, fresh(), 12)
    save_state(tmp_path / "state", state, {})
    loaded, _ = load_state(tmp_path / "state", MODEL)
    again = strategy()  # without a search in memory
    for name, array in rule.briefing(state).items():
        assert again.briefing(loaded)[name].tobytes() == array.tobytes()
    one, two = played(rule, state, 3), played(again, loaded, 3)
    assert one.params.vector.tobytes() == two.params.vector.tobytes()


def test_a_round_that_is_played_again_gives_the_same() -> None:
    rule = strategy()
    state = played(rule, fresh(), 6)
    one, two = played(rule, state, 2), played(rule, state, 2)
    assert one.params.vector.tobytes() == two.params.vector.tobytes()
    assert all(np.array_equal(one.slots[name], two.slots[name]) for name in one.slots)


def test_without_answers_the_generation_stays() -> None:
    rule = strategy()
    for state in (fresh(), played(rule, fresh(), 4)):
        after, metrics = rule.apply(state, None)
        assert after.version == state.version + 1
        assert metrics == {}
        assert rule.briefing(after).keys() == rule.briefing(state).keys()
        for name, array in rule.briefing(state).items():
            assert np.array_equal(rule.briefing(after)[name], array)


def test_what_is_no_answer_is_refused() -> None:
    rule, layout = strategy(), MODEL.select(("p0",))
    dense = ClientUpdate("a", 1, 1, delta=Delta(layout, np.zeros(20, dtype=np.float32)))
    with pytest.raises(UpdateRefusedError, match="client 'a': no losses"):
        rule.accumulate(None, dense)
    with pytest.raises(UpdateRefusedError, match="5 losses of 8 candidates"):
        rule.accumulate(None, answer(CLIENTS[0], layout, np.zeros(5)))
    total = rule.accumulate(None, answer(CLIENTS[0], layout, np.zeros(8)))
    other = answer(CLIENTS[1], MODEL.select(("p1",)), np.zeros(8))
    with pytest.raises(UpdateRefusedError, match="or of other tensors"):
        rule.accumulate(total, other)
    good = answer(CLIENTS[1], layout, np.zeros(8))
    assert good.delta is not None
    assert good.delta.steps is not None
    unknown = replace(good.delta, steps=replace(good.delta.steps, origin=None))
    with pytest.raises(UpdateRefusedError, match="nobody knows which run"):
        rule.accumulate(total, replace(good, delta=unknown))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"k": 0}, "k = 0"),
        ({"popsize": 0}, "popsize = 0"),
        ({"sigma": 0.0}, "sigma = 0.0"),
        ({"alpha": 0.0}, "alpha = 0.0: above 0"),
        ({"take": "last"}, "take = 'last': best or mean"),
        ({"largest": float("inf")}, "largest = inf"),
        ({"family": "cauchy"}, "family = 'cauchy'"),
    ],
)
def test_options_out_of_range(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        strategy(**options)


def test_more_directions_than_a_pool_may_have() -> None:
    rule = strategy(k=40000)
    total = rule.accumulate(None, answer(CLIENTS[0], PROMPTS, np.zeros(1)))
    with pytest.raises(ConfigError, match="k = 80000: 65536 directions at most, for 2 blocks"):
        rule.apply(fresh(), total)


def test_fed_bbpt_hands_its_numbers_to_learner_and_codec() -> None:
    tasks = fed_bbpt(k=30, popsize=6).configure(fresh(), cohort(1))
    learner, codec = tasks["a"].learner, tasks["a"].codec
    assert learner is not None
    assert codec is not None
    assert (learner.name, learner.options["k"], learner.options["pool"]) == (
        "subspace-search",
        30,
        30,
    )
    assert (codec.options["scheme"], codec.options["pool"]) == ("pool", 30)


def test_fed_bbpt_takes_the_mean_of_points() -> None:
    # (3 * [4, 0] + 1 * [0, 8]) / 4 = [3, 2].
    rule, pool = fed_bbpt(k=2, popsize=6), Directions("pool", 2)
    space = Subspace(PROMPTS, pool, 0, 2, 0.25)
    total = None
    for client, point in zip(CLIENTS, ([4, 0], [0, 8]), strict=True):
        steps = space.steps(np.array(point)).bound(SEED, round=1, client=client.id)
        delta = Delta(Layout(()), np.zeros(0, dtype=np.float32), steps)
        update = ClientUpdate(client.id, 1, client.num_examples, delta=delta)
        total = rule.accumulate(total, update)
    state = fresh()
    after, _ = rule.apply(state, total)
    want = state.params.vector[: PROMPTS.size] + space.changes(np.array([[3, 2]]), SEED)[0]
    np.testing.assert_allclose(after.params.vector[: PROMPTS.size], want, rtol=1e-6)


@pytest.mark.parametrize("options", [{"k": 1}, {"popsize": 3}, {"alpha": -1.0}, {"sigma": 0.0}])
def test_fed_bbpt_out_of_range(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        fed_bbpt(**options)
