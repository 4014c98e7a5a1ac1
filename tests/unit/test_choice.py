"""Which directions clients take: their own, of a pool by chances, or those along a guide."""

import numpy as np
import pytest
from numpy.typing import NDArray

from fedloom.core.errors import ConfigError
from fedloom.core.layout import Layout, TensorSpec
from fedloom.core.steps import Directions
from fedloom.core.types import Briefing
from fedloom.tuning.base import Rows
from fedloom.tuning.learners.choice import Choice, Chosen, guide_of
from fedloom.tuning.learners.search import Search
from fedloom.tuning.learning import Assignment

D = 64
MOVED = Layout((TensorSpec("w", (D,)),))
PLAN = [np.arange(4), np.arange(4, 7)]


def search(
    scheme: str = "distinct", *, directions: int = 6, pool: int = 40, per_example: bool = False
) -> Search:
    return Search(
        directions=directions,
        exact=(),
        bits=16,
        largest=64.0,
        agreed=Directions(scheme, pool),
        per_example=per_example,
        guided=False,
        send="scalars",
    )


def choice(
    how: Search, briefing: Briefing | None = None, *, clients: int = 2, round: int = 1
) -> Choice:
    cohort = [Assignment(f"c{i}", np.arange(7), round=round, seed=0) for i in range(clients)]
    return Choice(how, MOVED, cohort, [PLAN] * clients, briefing or {})


def of(how: Choice, step: int, clients: int = 2, at_once: int = 8) -> list[Chosen]:
    rows: Rows = [PLAN[step]] * clients
    return list(how.trials(step, rows, at_once))


def numbers(found: list[Chosen], client: int) -> list[int]:
    return [int(i) for t in found for i in t.numbers[t.owner == client]]


def test_steps_use_directions_in_turn() -> None:
    made = choice(search(directions=11))
    assert made.slots(0) == 22
    for step, want in ((0, list(range(11))), (1, list(range(11, 22)))):
        for at_once in (8, 1, 3):
            found = of(made, step, at_once=at_once)
            assert numbers(found, 0) == numbers(found, 1) == want
            assert max(np.bincount(t.owner).max() for t in found) == at_once


def test_rows_are_cut_alike_whatever_runs_at_once() -> None:
    made = choice(search(directions=10))
    whole, single = of(made, 0), of(made, 0, at_once=1)
    for client in (0, 1):
        one, other = (
            np.concatenate([t.z[t.owner == client] for t in found]) for found in (whole, single)
        )
        assert np.array_equal(one, other)
    assert not np.array_equal(whole[0].z[0], whole[0].z[8])


def test_every_example_its_own_direction() -> None:
    made = choice(search(directions=2, per_example=True))
    assert made.slots(0) == 2 * (4 + 3)
    found = of(made, 1)
    assert [len(t.owner) for t in found] == [6, 6]
    assert numbers(found, 1) == [8, 9, 10, 11, 12, 13]
    assert [r.tolist() for r in found[0].rows] == [[4], [5], [6], [4], [5], [6]]
    assert all(t.single for t in found)


def test_a_pool_is_drawn_from_anew_in_every_step_and_round() -> None:
    how = search("pool", directions=30)
    first = choice(how)
    draws = [numbers(of(first, s), c) for s in (0, 1) for c in (0, 1)]
    draws += [numbers(of(choice(how, round=2), 0), 0)]
    assert all(0 <= i < 40 for draw in draws for i in draw)
    assert len({tuple(draw) for draw in draws}) == 5
    assert numbers(of(choice(how), 0), 0) == draws[0]


@pytest.mark.parametrize("kind", [np.uint8, np.float32])
def test_odds_are_those_of_the_draws(kind: type[np.generic]) -> None:
    odds = np.array([0, 1, 0, 3], dtype=kind)
    how = choice(search("pool", directions=4000, pool=4), {"odds": odds}, clients=1)
    counts = np.bincount(numbers(of(how, 0, clients=1), 0), minlength=4)
    assert counts[0] == counts[2] == 0
    assert abs(counts[3] / 4000 - 0.75) < 4 * (0.75 * 0.25 / 4000) ** 0.5


@pytest.mark.parametrize(
    ("odds", "message"),
    [
        (np.ones(39), r"briefing.odds = \[39\]: \[40\], like the pool"),
        (np.zeros(40), "and one above"),
        (np.full(40, -1.0), "none below 0"),
        (np.full(40, np.nan), "finite"),
    ],
)
def test_odds_that_are_none(odds: NDArray[np.float64], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        choice(search("pool"), {"odds": odds})


def test_candidates_are_those_along_the_guide() -> None:
    guide = np.random.default_rng(0).normal(size=D).astype(np.float32)
    how = search("candidates", directions=5, pool=40)
    every = of(choice(search(directions=40)), 0)  # a client's first 40 directions, one and all
    z = np.concatenate([t.z[t.owner == 1] for t in every])
    want = sorted(np.argsort(-(z @ guide))[:5].tolist())
    guided = choice(how, {"guide": guide})
    assert numbers(of(guided, 0), 1) == numbers(of(guided, 1), 1) == want
    assert numbers(of(choice(how), 0), 1) == [0, 1, 2, 3, 4]
    assert guided.slots(1) == 40


def test_too_few_candidates() -> None:
    with pytest.raises(ConfigError, match="at most the pool's 4, to choose of"):
        search("candidates", directions=5, pool=4)
    how = choice(search("candidates", directions=2, pool=7, per_example=True))
    with pytest.raises(ConfigError, match="directions = 8: at most the pool's 7 in a step"):
        of(how, 0)


def test_a_guide_has_unit_length_or_none() -> None:
    guide = guide_of({"guide": np.full(D, 3.0, dtype=np.float32)}, MOVED)
    assert guide is not None
    assert np.allclose(guide, 1 / 8)
    nothing = guide_of({"guide": np.zeros(D, dtype=np.float32)}, MOVED)
    assert nothing is not None
    assert not nothing.any()
    assert guide_of({}, MOVED) is None
    for wrong, message in ((np.ones(3), r"\[3\]: \[64\]"), (np.full(D, np.inf), "finite length")):
        with pytest.raises(ConfigError, match=message):
            guide_of({"guide": wrong}, MOVED)
