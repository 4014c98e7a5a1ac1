"""Robust strategies: hand-made cohorts, too few clients, and tensors that updates lack."""

from collections.abc import Sequence
from typing import cast

import numpy as np
import pytest

from fedloom.core.errors import ConfigError
from fedloom.core.layout import Layout, TensorSpec
from fedloom.core.registry import Component, create
from fedloom.core.types import Client, ClientUpdate, Cohort, Delta, Params, State
from fedloom.strategies.base import Strategy
from fedloom.strategies.centred_clipping import CentredClipping
from fedloom.strategies.coordinatewise import median, trimmed_mean
from fedloom.strategies.fltrust import fltrust
from fedloom.strategies.geometric_median import rfa
from fedloom.strategies.krum import krum, multi_krum, scores
from fedloom.strategies.norm_bounding import norm_bounding

A, B = TensorSpec("a", (2,)), TensorSpec("b", (1,))
LAYOUT = Layout((A, B))
START = State(Params(LAYOUT, np.zeros(3, dtype=np.float32)))


def cohort(count: int) -> Cohort:
    return Cohort(1, tuple(Client(f"c{i}", 1) for i in range(count)))


def update(client: int, *values: float, specs: Sequence[TensorSpec] = (A, B)) -> ClientUpdate:
    delta = Delta(Layout(tuple(specs)), np.array(values, dtype=np.float32))
    return ClientUpdate(f"c{client}", 1, 1 + client, delta=delta)


def after(strategy: Strategy, *updates: ClientUpdate, state: State = START) -> State:
    total = None
    for one in updates:
        total = strategy.accumulate(total, one)
    return strategy.apply(state, total)[0]


def test_krum_scores_by_hand() -> None:
    # On a line at 0, 1, 3, 7 and 20 with f = 1: n - f - 2 = 2 nearest others.
    # 0: 1 + 9 = 10. 1: 1 + 4 = 5. 3: 4 + 9 = 13. 7: 16 + 36 = 52. 20: 169 + 289 = 458.
    places = np.array([0, 1, 3, 7, 20], dtype=np.float64)
    found = scores((places[:, None] - places[None, :]) ** 2, 1)
    assert found.tolist() == [10, 5, 13, 52, 458]
    updates = [update(i, place, 0, 0) for i, place in enumerate(places)]
    assert after(krum(1), *updates).params.vector.tolist() == [1, 0, 0]
    # The two least scores are those of 1 and 0: their mean is a half.
    assert after(multi_krum(1, m=2), *updates).params.vector.tolist() == [0.5, 0, 0]


def test_equal_scores_are_decided_by_client_id() -> None:
    updates = [update(i, 5.0, 5.0, 5.0) for i in range(5)]
    assert after(krum(1), *updates[::-1]).params.vector.tolist() == [5, 5, 5]


@pytest.mark.parametrize(
    ("name", "options", "clients", "text"),
    [
        ("krum", {"f": 2}, 6, r"krum: f = 2 with n = 6 clients: n >= 2f \+ 3 = 7 is needed, or f"),
        ("multi-krum", {"f": 1}, 2, r"multi-krum: .* = 5 is needed, or 3 clients with f = 0"),
        ("bulyan", {"f": 2}, 10, r"bulyan: .*n >= 4f \+ 3 = 11 is needed, or f of at most 1"),
        ("trimmed-mean", {"f": 3}, 6, r"trimmed-mean: .*2f \+ 1 = 7 is needed, or f of at most 2"),
        ("fltrust", {"root": "x"}, 3, r"fltrust: root = 'x' has no task in this round"),
        ("fltrust", {"root": "c0"}, 1, r"fltrust: n = 1 client: the root and one more"),
    ],
)  # fmt: skip
def test_too_few_clients_are_refused_before_the_round(
    name: str, options: dict[str, int], clients: int, text: str
) -> None:
    strategy = cast(Strategy, create("strategies", Component(name, options)))
    with pytest.raises(ConfigError, match=text):
        strategy.configure(START, cohort(clients))
    assert strategy.configure(START, cohort(0)) == {}


def test_as_many_as_the_rule_needs_are_enough() -> None:
    assert len(krum(2).configure(START, cohort(7))) == 7
    assert len(trimmed_mean(3).configure(START, cohort(7))) == 7


@pytest.mark.parametrize(
    ("strategy", "lacking"), [(krum(1), 3), (trimmed_mean(1), 1), (fltrust("c9"), 1)]
)
def test_a_round_that_lost_too_many_clients_changes_the_version_only(
    strategy: Strategy, lacking: int
) -> None:
    total = strategy.accumulate(None, update(0, 1, 1, 1))
    total = strategy.accumulate(total, update(1, 1, 1, 1))
    state, metrics = strategy.apply(START, total)
    assert (state.version, state.params) == (1, START.params)
    assert metrics == {"updates_lacking": lacking}


def test_what_lacks_a_tensor_is_skipped_or_counts_as_unchanged() -> None:
    # Of b there are 6 and 8, and a client that has it not: the median is 7, or that of 0, 6, 8.
    updates = update(0, 1, 1, 6), update(1, 2, 2, 8), update(2, 3, 3, specs=[A])
    assert after(median(), *updates).params.vector.tolist() == [2, 2, 7]
    assert after(median(absent="unchanged"), *updates).params.vector.tolist() == [2, 2, 6]
    # Two values are too few to trim one at each end: b stays as it is.
    assert after(trimmed_mean(1), *updates).params.vector.tolist() == [2, 2, 0]


def test_the_geometric_median_may_weigh_clients_by_their_examples() -> None:
    # Two at 0 and 1: any point between is as near to both, and so the first stays. Cut down to the
    # median length of 1/2 they weigh 2 and 1, which is 1/3. Of weights 1 and 2, the second's wins.
    updates = update(0, 0, 0, 0), update(1, 1, 0, 0)
    assert after(rfa(), *updates).params.vector[0] == pytest.approx(1 / 3)
    assert after(rfa(weighted=True), *updates).params.vector[0] == pytest.approx(1.0, abs=1e-4)


def test_norms_are_bounded_and_examples_weigh() -> None:
    # (3, 4, 0) of length 5 becomes (0.6, 0.8, 0) of one example; (0, 0, 0.5) stays, of two.
    found = after(norm_bounding(1.0), update(0, 3, 4, 0), update(1, 0, 0, 0.5)).params.vector
    np.testing.assert_allclose(found, [0.2, 0.8 / 3, 1 / 3], rtol=1e-6)


def test_centred_clipping_begins_where_the_last_round_ended() -> None:
    strategy = CentredClipping(tau=1.0)
    # From 0: 0.5 stays and 9 is clipped to 1: v = 0.75.
    first = after(strategy, update(0, 0.5, 0, 0), update(1, 9, 0, 0))
    assert first.params.vector.tolist() == [0.75, 0, 0]
    assert first.slots["reference"].tolist() == [0.75, 0, 0]
    # From 0.75: 0.25 is 0.5 away and stays, 9 counts as 1.75: v = 1, and the model moves by it.
    second = after(strategy, update(0, 0.25, 0, 0), update(1, 9, 0, 0), state=first)
    assert second.slots["reference"].tolist() == [1, 0, 0]
    assert second.params.vector.tolist() == [1.75, 0, 0]


def test_who_lacks_a_tensor_has_no_say_in_where_clipping_goes() -> None:
    found = after(CentredClipping(tau=9.0), update(0, 1, 1, 4), update(1, 1, 1, specs=[A]))
    assert found.params.vector.tolist() == [1, 1, 2]


def test_trust_is_the_cosine_to_the_root() -> None:
    # Root (2, 0, 0). c1 = (1, 0, 0) is trusted fully and scaled to length 2; c2 points away.
    strategy = fltrust("c0")
    found = after(strategy, update(0, 2, 0, 0), update(1, 1, 0, 0), update(2, -5, 0, 0))
    assert found.params.vector.tolist() == [2, 0, 0]
    nobody = after(strategy, update(0, 2, 0, 0), update(2, -5, 0, 0))
    assert nobody.params.vector.tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("name", "options", "text"),
    [
        ("krum", {"f": -1}, "krum: f = -1: 0 or more"),
        ("multi-krum", {"m": -1}, "m = -1"),
        ("rfa", {"nu": 0.0}, "nu = 0.0: above 0"),
        ("rfa", {"iterations": 0}, "iterations = 0"),
        ("norm-bounding", {"norm": 0.0}, "norm = 0.0"),
        ("centred-clipping", {"tau": -1.0}, "tau = -1.0"),
        ("fltrust", {"root": ""}, "the id of a client that is trusted"),
        ("median", {"absent": "zero"}, "absent = 'zero': one of skip, unchanged"),
    ],
)
def test_options_are_checked(name: str, options: dict[str, float], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        create("strategies", Component(name, options))
