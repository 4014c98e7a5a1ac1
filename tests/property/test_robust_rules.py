"""Robust rules beside their definitions in plain numpy, and what f liars can do to them."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fedloom.core.layout import Layout, TensorSpec, Vector
from fedloom.core.types import ClientUpdate, Delta
from fedloom.strategies.bulyan import Bulyan
from fedloom.strategies.centred_clipping import clipped_around
from fedloom.strategies.coordinatewise import CoordinateMedian, TrimmedMean
from fedloom.strategies.fltrust import Trusting
from fedloom.strategies.geometric_median import GeometricMedian
from fedloom.strategies.held_cohort import HeldCohort
from fedloom.strategies.krum import Krum, squared_distances
from fedloom.strategies.over_cohort import Rule

Rows = NDArray[np.float64]
SIZE = 7
LAYOUT = Layout((TensorSpec("a", (2, 2)), TensorSpec("b", (3,))))


def held(rows: Rows) -> HeldCohort:
    total = HeldCohort()
    for i, row in enumerate(rows):
        delta = Delta(LAYOUT, row.astype(np.float32))
        total.add(ClientUpdate(f"client-{i:03}", 1, 1 + i, delta=delta))
    return total


def close(found: Vector, expected: Rows) -> None:
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-6)


def by_krum(rows: Rows, f: int) -> int:
    scores = []
    for i, row in enumerate(rows):
        far = sorted(((row - other) ** 2).sum() for j, other in enumerate(rows) if j != i)
        scores.append(sum(far[: max(len(rows) - f - 2, 1)]))
    return int(np.argmin(scores))


def by_bulyan(rows: Rows, f: int) -> Rows:
    left, chosen = list(range(len(rows))), []
    for _ in range(len(rows) - 2 * f):
        best = left[by_krum(rows[left], f)]
        chosen.append(best)
        left.remove(best)
    kept = rows[chosen]
    middle = np.median(kept, axis=0)
    nearest = np.argsort(np.abs(kept - middle), axis=0)[: len(kept) - 2 * f]
    return np.asarray(np.take_along_axis(kept, nearest, axis=0).mean(axis=0))


def by_trimming(rows: Rows, f: int) -> Rows:
    return np.asarray(np.sort(rows, axis=0)[f : len(rows) - f].mean(axis=0))


cohorts = st.tuples(st.integers(0, 2), st.integers(0, 6), st.integers(0, 2**32 - 1))


def rows_of(drawn: tuple[int, int, int]) -> tuple[Rows, int]:
    """Deltas of enough clients for Bulyan, and f; numbers that float32 holds."""
    f, more, seed = drawn
    noise = np.random.default_rng(seed).normal(size=(4 * f + 3 + more, SIZE))
    return noise.astype(np.float32).astype(np.float64), f


@settings(deadline=None, max_examples=30)
@given(cohorts)
def test_rules_are_their_definitions(drawn: tuple[int, int, int]) -> None:
    rows, f = rows_of(drawn)
    total = held(rows)
    close(CoordinateMedian().combined(total, LAYOUT), np.median(rows, axis=0))
    close(TrimmedMean(f).combined(total, LAYOUT), by_trimming(rows, f))
    close(Krum(f).combined(total, LAYOUT), rows[by_krum(rows, f)])
    close(Bulyan(f).combined(total, LAYOUT), by_bulyan(rows, f))


@settings(deadline=None, max_examples=20)
@given(cohorts)
def test_no_other_point_is_nearer_to_all_than_the_geometric_median(
    drawn: tuple[int, int, int],
) -> None:
    rows, _ = rows_of(drawn)
    point = GeometricMedian(iterations=200).combined(held(rows), LAYOUT)

    def far(z: NDArray[np.floating]) -> float:
        return float(np.linalg.norm(rows - z, axis=1).sum())

    best = far(point)
    noise = np.random.default_rng(0).normal(size=(20, SIZE))
    for other in (*rows, rows.mean(axis=0), *(point + 0.01 * noise)):
        assert best <= far(other) * (1 + 1e-4)


@settings(deadline=None, max_examples=30)
@given(cohorts, st.floats(0.1, 5))
def test_centred_clipping_is_its_equation(drawn: tuple[int, int, int], tau: float) -> None:
    rows, _ = rows_of(drawn)
    v = np.linspace(-1, 1, SIZE).astype(np.float32)
    away = rows - v
    shares = np.minimum(1, tau / np.linalg.norm(away, axis=1))
    expected = v + (away * shares[:, None]).mean(axis=0)
    found = clipped_around(v, held(rows), LAYOUT, tau)
    close(found, expected)


@settings(deadline=None, max_examples=30)
@given(cohorts)
def test_fltrust_is_its_equations(drawn: tuple[int, int, int]) -> None:
    rows, _ = rows_of(drawn)
    root, others = rows[0], rows[1:]
    lengths = np.linalg.norm(others, axis=1)
    trust = np.maximum(others @ root / (lengths * np.linalg.norm(root)), 0)
    scaled = others * (np.linalg.norm(root) / lengths)[:, None]
    expected = trust @ scaled / trust.sum() if trust.any() else np.zeros(SIZE)
    found = Trusting("client-000").combined(held(rows), LAYOUT)
    close(found, expected)


RULES: list[Callable[[int], Rule]] = [
    lambda f: CoordinateMedian(),
    TrimmedMean,
    Krum,
    lambda f: Krum(f, m=0),
    Bulyan,
    lambda f: GeometricMedian(),
    lambda f: Trusting("client-000"),
]


@pytest.mark.parametrize("rule", RULES)
@settings(deadline=None, max_examples=10)
@given(drawn=cohorts, far=st.sampled_from([1e6, -1e6, 1e30]))
def test_f_liars_move_the_result_by_no_more_than_honest_clients_differ(
    rule: Callable[[int], Rule], drawn: tuple[int, int, int], far: float
) -> None:
    rows, f = rows_of(drawn)
    lied = rows.copy()
    lied[len(rows) - f :] = far
    honest: Vector = rule(f).combined(held(rows), LAYOUT)
    found: Vector = rule(f).combined(held(lied), LAYOUT)
    spread = np.linalg.norm(rows, axis=1).max()
    assert np.linalg.norm(found - honest) <= 4 * spread


@settings(deadline=None, max_examples=20)
@given(cohorts, st.sampled_from([0.0, 1.0, 1000.0]), st.sampled_from([1e2, -1e6]))
def test_what_updates_have_in_common_does_not_drown_their_distances(
    drawn: tuple[int, int, int], offset: float, far: float
) -> None:
    rows, f = rows_of(drawn)
    rows = (rows * 0.01 + offset).astype(np.float32).astype(np.float64)
    rows[:f] = far  # the first of all lie
    expected = np.square(rows[:, None] - rows[None, :]).sum(axis=2)
    found = squared_distances(held(rows), LAYOUT, f)
    np.testing.assert_allclose(found[f:, f:], expected[f:, f:], rtol=1e-4, atol=1e-12)
    np.testing.assert_allclose(found[f:, :f], expected[f:, :f], rtol=1e-4)
