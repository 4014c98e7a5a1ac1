"""Bulyan's choice with sums that are carried on is that of the plain definition, ties too."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fedloom.strategies.bulyan import chosen_in_turn

Distances = NDArray[np.float64]


def by_definition(distances: Distances, f: int, count: int) -> list[int]:
    """Each time all sums afresh."""
    others = distances.copy()
    np.fill_diagonal(others, np.inf)
    order = np.argsort(others, axis=1, kind="stable")
    ranked = np.take_along_axis(others, order, axis=1)
    left = np.ones(len(others), dtype=np.bool_)
    chosen = []
    for done in range(count):
        there = left[order]
        near = there & (np.cumsum(there, axis=1) <= max(len(others) - done - f - 2, 1))
        score = np.where(near, ranked, 0.0).sum(axis=1)
        candidates = np.flatnonzero(left)
        chosen.append(int(candidates[np.argmin(score[candidates])]))
        left[chosen[-1]] = False
    return chosen


@st.composite
def cases(draw: st.DrawFn) -> tuple[Distances, int]:
    """Distances of points: scattered, on a grid (ties), alike, and some far or infinitely far."""
    f = draw(st.integers(0, 4))
    n = 4 * f + 3 + draw(st.integers(0, 20))
    noise = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    points = noise.normal(size=(n, 3))
    kind = draw(st.sampled_from(["scattered", "grid", "alike", "far", "infinite"]))
    if kind == "grid":
        points = np.asarray(noise.integers(0, 3, (n, 3)) * 0.1, dtype=np.float64)
    elif kind == "alike":
        points[: n // 2] = points[0]
    elif kind == "far":
        points[noise.random(n) < 0.3] *= 1e9
    found = np.square(points[:, None] - points[None, :]).sum(axis=2)
    if kind == "infinite":
        lost = noise.random(n) < draw(st.sampled_from([0.2, 0.6, 1.0]))
        found[lost, :] = found[:, lost] = np.inf
    np.fill_diagonal(found, 0.0)
    return found, f


@settings(deadline=None, max_examples=200)
@given(cases())
def test_the_choice_is_that_of_the_plain_sums(case: tuple[Distances, int]) -> None:
    distances, f = case
    count = len(distances) - 2 * f
    assert chosen_in_turn(distances, f, count).tolist() == by_definition(distances, f, count)


def test_the_choice_among_many() -> None:
    points = np.random.default_rng(5).normal(size=(200, 4))
    distances = np.square(points[:, None] - points[None, :]).sum(axis=2)
    assert chosen_in_turn(distances, 20, 160).tolist() == by_definition(distances, 20, 160)
