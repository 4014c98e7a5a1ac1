import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from numpy.typing import NDArray

from fedloom.core.errors import ConfigError
from fedloom.core.evolution import Evolution, Search

SMALL = Search(6, 8, 0.3)


def bowl(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Lowest, 0, where every coordinate is 1."""
    found: NDArray[np.float64] = np.square(points - 1).sum(1)
    return found


def searched(generations: int, key: int = 5) -> tuple[Evolution, list[NDArray[np.float64]]]:
    evolution, told = Evolution(SMALL, key), []
    for _ in range(generations):
        told.append(bowl(evolution.candidates))
        evolution.tell(told[-1])
    return evolution, told


def test_it_finds_the_bottom_of_a_bowl() -> None:
    evolution, _ = searched(80)
    np.testing.assert_allclose(evolution.mean, 1, atol=1e-3)
    assert evolution.sigma < SMALL.sigma / 10


def test_the_first_generation_stands_around_zero() -> None:
    points = np.concatenate([Evolution(Search(50, 40, 0.3), key).candidates for key in range(20)])
    assert abs(points.mean()) < 0.3 * 4 / 200  # 4 standard errors of 40 000 numbers
    assert points.std() == pytest.approx(0.3, rel=0.02)


def test_rebuilt_from_its_losses_it_asks_the_same_to_the_bit() -> None:
    evolution, told = searched(7)
    again = Evolution.after(SMALL, 5, told)
    assert again.candidates.tobytes() == evolution.candidates.tobytes()
    assert again.mean.tobytes() == evolution.mean.tobytes()


def test_candidates_are_the_same_until_they_are_told() -> None:
    evolution = Evolution(SMALL, 5)
    first = evolution.candidates.copy()
    assert np.array_equal(evolution.candidates, first)
    evolution.tell(bowl(first))
    assert not np.array_equal(evolution.candidates, first)


def test_each_key_searches_in_its_own_way() -> None:
    assert not np.array_equal(Evolution(SMALL, 5).candidates, Evolution(SMALL, 6).candidates)


def test_only_the_order_of_losses_counts() -> None:
    one, two = Evolution(SMALL, 5), Evolution(SMALL, 5)
    losses = bowl(one.candidates)
    one.tell(losses)
    two.tell(np.argsort(np.argsort(losses)))
    assert np.array_equal(one.candidates, two.candidates)


def test_no_global_generator_is_touched() -> None:
    before = np.random.get_state()
    searched(3)
    after = np.random.get_state()
    assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))


def test_losses_that_are_all_alike_do_not_stop_it() -> None:
    evolution = Evolution(SMALL, 5)
    for _ in range(20):
        evolution.tell(np.zeros(8))
    assert np.isfinite(evolution.candidates).all()


@pytest.mark.parametrize(
    "losses", [np.zeros(7), np.zeros((8, 1)), np.full(8, np.nan), np.array([np.inf] + [0.0] * 7)]
)
def test_losses_that_cannot_be_told(losses: NDArray[np.float64]) -> None:
    with pytest.raises(ConfigError, match=r"losses = .*: 8 finite numbers"):
        Evolution(SMALL, 5).tell(losses)


@pytest.mark.parametrize(
    ("numbers", "text"),
    [
        ((0, 20, 0.2), "k = 0: 2 to 65536"),
        ((1, 20, 0.2), "k = 1: 2 to 65536"),
        ((500, 0, 0.2), "popsize = 0: 4 to 65536"),
        ((500, 20, 0.0), "sigma = 0.0: above 0 and finite"),
        ((500, 20, float("nan")), "sigma = nan: above 0 and finite"),
    ],
)
def test_numbers_out_of_range(numbers: tuple[int, int, float], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        Search(*numbers)


def test_without_the_package_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cma", None)
    with pytest.raises(ConfigError, match=r"cma package: pip install 'fedloom\[blackbox\]'"):
        Evolution(SMALL, 5)


def test_threads_may_search_side_by_side() -> None:
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda key: searched(2, key)[0].mean, [5, 6] * 8))
    for i, mean in enumerate(found):
        assert np.array_equal(mean, found[i % 2])
