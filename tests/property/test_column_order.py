"""Statistics of columns: both ways have the same bits, and they are what they are called."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fedloom.core.compiled import compiled
from fedloom.strategies import order
from fedloom.strategies.order import Statistic, of_columns

Rows = NDArray[np.float32]
there = compiled("fedloom.strategies._order", order._declare) is not None
built = pytest.mark.skipif(not there, reason="needs the compiled fedloom.strategies._order")
MOST = float(np.finfo(np.float32).max)

KINDS: list[Callable[[np.random.Generator, tuple[int, int]], NDArray[np.floating]]] = [
    lambda draw, shape: draw.normal(size=shape),
    lambda draw, shape: draw.integers(-2, 3, shape) * 0.1,  # ties
    lambda draw, shape: draw.choice([0.0, -0.0, 1e-45, -1e-45, MOST, -MOST], shape),
    lambda draw, shape: draw.choice([1.0, -1.0], shape) * 2.0 ** draw.integers(-140, 127, shape),
    lambda draw, shape: draw.normal(size=shape) * (draw.random(shape) < 0.2),  # mostly zeros
    lambda draw, shape: np.where(np.arange(shape[0])[:, None] % 5 == 4, 1e30, draw.random(shape)),
]


@st.composite
def cases(draw: st.DrawFn) -> tuple[Rows, NDArray[np.intp], int]:
    """Rows, those of them that count, and an f that leaves something."""
    clients, columns = draw(st.integers(1, 40)), draw(st.integers(1, 150))
    noise = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    rows = draw(st.sampled_from(KINDS))(noise, (clients, columns)).astype(np.float32)
    count = draw(st.integers(1, clients))
    chosen = np.sort(noise.permutation(clients)[:count])
    return rows, chosen, draw(st.integers(0, (count - 1) // 2))


@built
@settings(deadline=None)
@given(cases(), st.sampled_from(Statistic))
def test_both_ways_have_the_same_bits(
    case: tuple[Rows, NDArray[np.intp], int], statistic: Statistic
) -> None:
    rows, chosen, f = case
    ours = of_columns(statistic, rows, chosen, f)
    assert ours.tobytes() == order._of_columns(statistic, rows, chosen, f).tobytes()


@settings(deadline=None)
@given(cases())
def test_they_are_what_they_are_called(case: tuple[Rows, NDArray[np.intp], int]) -> None:
    rows, chosen, f = case
    whole = np.sort(rows[chosen].astype(np.float64), axis=0)
    middle = np.median(whole, axis=0).astype(np.float32)
    np.testing.assert_array_equal(of_columns(Statistic.MEDIAN, rows, chosen), middle)
    kept = whole[f : len(whole) - f]
    found = of_columns(Statistic.TRIMMED, rows, chosen, f)
    near = np.abs(kept).max(axis=0) * 1e-6 + 1e-44
    assert (np.abs(found - kept.mean(axis=0)) <= near).all()


def test_around_the_median_by_hand() -> None:
    # The median of 0, 1, 2, 3, 9 is 2. Of the three nearest 2 is first; 1 and 3 are as far: all of
    # them count. With f = 2 there is one place, and 2 has it.
    rows = np.array([[9], [0], [3], [2], [1]], dtype=np.float32)
    everyone = np.arange(5)
    assert of_columns(Statistic.AROUND, rows, everyone, 1).tolist() == [2]
    assert of_columns(Statistic.AROUND, rows, everyone, 2).tolist() == [2]
    # The median of 0, 1, 3, 9 is 2. Two are kept: 1 and 3. Of -2, 0, 1, 4, 4 around 1: 1 and 0,
    # and the one place that is left is shared by three: (1 + 0 + (-2 + 4 + 4) / 3) / 3 = 1.
    assert of_columns(Statistic.AROUND, rows, np.array([0, 1, 2, 4]), 1).tolist() == [2]
    shared = np.array([[-2], [0], [1], [4], [4]], dtype=np.float32)
    assert of_columns(Statistic.AROUND, shared, everyone, 1).tolist() == [1]


@pytest.mark.parametrize("statistic", Statistic)
def test_zeros_come_out_positive_and_one_client_is_its_own(statistic: Statistic) -> None:
    rows = np.array([[-0.0, 3.5], [7.0, 7.0]], dtype=np.float32)
    found = of_columns(statistic, rows, np.array([0]))
    assert found.tolist() == [0, 3.5]
    assert not np.signbit(found).any()


@pytest.mark.parametrize("statistic", Statistic)
def test_rows_may_lie_apart_and_columns_too(statistic: Statistic) -> None:
    whole = np.random.default_rng(3).normal(size=(9, 200)).astype(np.float32)
    everyone = np.arange(9)
    for part in (whole[:, 7:80], whole[:, ::2]):
        alone = of_columns(statistic, np.ascontiguousarray(part), everyone, 2)
        assert of_columns(statistic, part, everyone, 2).tobytes() == alone.tobytes()
