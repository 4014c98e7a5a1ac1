import math

import numpy as np
import pytest
from steps_made import MODEL, stepped

from fedloom.core.errors import ConfigError
from fedloom.core.steps import Directions
from fedloom.core.types import ClientUpdate, Params, State
from fedloom.strategies.kseed import KSeed, fedkseed, odds_of

POOL = Directions("pool", pool=4)
START = State(Params(MODEL, np.zeros(MODEL.size, dtype=np.float32)))


def pooled(client: str, scalars: list[int], *, examples: int = 1, round: int = 1) -> ClientUpdate:
    return stepped(client, scalars, examples=examples, round=round, directions=POOL)


def after(strategy: KSeed, state: State, *updates: ClientUpdate) -> State:
    total = None
    for update in updates:
        total = strategy.accumulate(total, update)
    return strategy.apply(state, total)[0]


def change_of(update: ClientUpdate) -> "np.ndarray[tuple[int], np.dtype[np.float32]]":
    assert update.delta is not None
    assert update.delta.steps is not None
    return update.delta.steps.vector()


def test_the_mean_of_the_clients_models() -> None:
    # FedKSeed: w + sum_c omega_c sum_k eta s_ck z_k, omega by examples or alike.
    a, b = pooled("a", [3, 0, -1, 0], examples=3), pooled("b", [0, 5, 1, 0])
    found = after(fedkseed(), START, a, b).params.vector[:40]
    np.testing.assert_allclose(found, (3 * change_of(a) + change_of(b)) / 4, rtol=1e-5, atol=1e-7)
    alike = after(fedkseed(weigh="clients"), START, a, b).params.vector[:40]
    np.testing.assert_allclose(alike, (change_of(a) + change_of(b)) / 2, rtol=1e-5, atol=1e-7)


def test_the_pool_is_the_same_in_every_round() -> None:
    one, two = pooled("a", [1, 2, 0, 0]), pooled("b", [1, 2, 0, 0], round=9)
    assert change_of(one).tobytes() == change_of(two).tobytes()


def test_probabilities_are_the_softmax_of_scaled_mean_sizes() -> None:
    # Means 0, 2 and 4 scale to 0, 1/2 and 1; nothing is more than e times as likely.
    odds = odds_of(np.array([0.0, 4.0, 4.0]), np.array([1, 2, 1]))
    weights = np.exp([0.0, 0.5, 1.0])
    np.testing.assert_allclose(odds.tolist(), weights / weights.sum(), rtol=1e-6)
    assert odds.max() / odds.min() == pytest.approx(math.e, rel=1e-5)
    np.testing.assert_allclose(odds_of(np.zeros(5), np.ones(5, dtype=np.int64)), 0.2)


def test_pro_tells_how_far_each_direction_has_moved_clients() -> None:
    # What a step is worth is 1/4. Direction 0: |2|/4 and |-6|/4 and the 0 that it begins with, mean
    # 2/3; direction 1: 4/4 and 0, mean 1/2; the others only their 0.
    strategy = fedkseed(pro=True)
    assert strategy.briefing(START) == {}
    one = after(strategy, START, pooled("a", [2, 4, 0, 0]), pooled("b", [-6, 0, 0, 0]))
    odds = strategy.briefing(one)["odds"]
    weights = np.exp([1.0, (1 / 2) / (2 / 3), 0.0, 0.0])
    np.testing.assert_allclose(odds.tolist(), weights / weights.sum(), rtol=1e-5)
    # A later round goes on: direction 1 has 4/4 and 8/4 and its 0, mean 1.
    two = after(strategy, one, pooled("c", [0, -8, 0, 0], round=2))
    weights = np.exp([2 / 3, 1.0, 0.0, 0.0])
    np.testing.assert_allclose(
        strategy.briefing(two)["odds"].tolist(), weights / weights.sum(), rtol=1e-5
    )


def test_without_pro_nothing_is_told_or_kept() -> None:
    state = after(fedkseed(), START, pooled("a", [2, 4, 0, 0]))
    assert fedkseed().briefing(state) == {}
    assert not [name for name in state.slots if name.startswith("history")]


def test_a_round_without_updates_only_counts() -> None:
    state, metrics = fedkseed(pro=True).apply(START, None)
    assert (state.version, metrics) == (1, {})


@pytest.mark.parametrize(
    ("options", "message"),
    [({"lr": 0.0}, "lr = 0.0: above 0 and finite"), ({"weigh": "x"}, "weigh = 'x'")],
)
def test_settings_out_of_range_are_named(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        fedkseed(**options)  # type: ignore[arg-type]
