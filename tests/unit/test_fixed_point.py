"""The compiled sums in fixed point have the bits of numpy's."""

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import pytest
from numpy.typing import NDArray

from fedloom.core import fixed_point
from fedloom.core.compiled import compiled
from fedloom.core.fixed_point import fold, largest

Way: TypeAlias = Callable[[NDArray[np.int64], NDArray[np.float32], int], float]

there = compiled("fedloom.core._fixed_point", fixed_point._declare) is not None
built = pytest.mark.skipif(not there, reason="needs the compiled fedloom.core._fixed_point")


def numbers(size: int, seed: int) -> NDArray[np.float32]:
    """Of all magnitudes that may come, and halves of a step, which round to even."""
    draw = np.random.default_rng(seed)
    spread = draw.standard_normal(size) * 2.0 ** draw.integers(-40, 20, size)
    steps = draw.integers(-9, 9, size) * 2.0**-35
    return np.where(draw.random(size) < 0.3, steps, spread).astype(np.float32)


def test_a_sum_by_hand() -> None:
    # 0.5 is 2^33; 2^-35 is half a step and rounds to the even 0; three halves of one round to 2.
    sums = np.zeros(3, dtype=np.int64)
    fold(sums, np.array([0.5, 2.0**-35, 3 * 2.0**-35], dtype=np.float32), 3)
    assert sums.tolist() == [3 * 2**33, 0, 6]


@built
@pytest.mark.parametrize("size", [0, 1, 7, 1000, 70_001])
@pytest.mark.parametrize("weight", [0, 1, 2, 1000])
def test_both_ways_have_the_same_bits(size: int, weight: int) -> None:
    ours, theirs = np.ones(size, dtype=np.int64), np.ones(size, dtype=np.int64)
    for seed in range(3):
        vector = numbers(size, seed)
        fold(ours, vector, weight)
        fixed_point._fold(theirs, vector, weight)
    assert ours.tobytes() == theirs.tobytes()


@pytest.mark.parametrize("way", [fold, fixed_point._fold])
def test_folding_with_the_negative_weight_takes_it_back(way: Way) -> None:
    sums = np.arange(5000, dtype=np.int64) << 40
    vector = np.random.default_rng(1).uniform(-1, 1, 5000).astype(np.float32) * np.float32(2**28.9)
    peak = way(sums, vector, 2**40 + 1)  # far beyond int64: modulo 2^64
    assert peak == np.abs(vector).max()
    assert way(sums, vector, -(2**40) - 1) == peak
    assert sums.tolist() == (np.arange(5000, dtype=np.int64) << 40).tolist()


@pytest.mark.parametrize("way", [fold, fixed_point._fold])
@pytest.mark.parametrize("bad", [2.0**29, -(2.0**29), np.inf, -np.inf, np.nan, -np.nan])
@pytest.mark.parametrize("place", [0, 2047, 69_999])
def test_what_is_too_large_leaves_the_sums_as_they_were(way: Way, bad: float, place: int) -> None:
    sums, vector = np.ones(70_000, dtype=np.int64), numbers(70_000, 2)
    vector[place] = bad
    vector[100] = 2.0**30
    peak = way(sums, vector, 3)
    assert peak == (2.0**30 if abs(bad) == 2.0**29 else np.inf)
    assert (sums == 1).all()


@built
def test_the_largest_number_that_fits_has_the_same_bits_both_ways() -> None:
    below = np.nextafter(np.float32(2**29), np.float32(0))
    ours, theirs = np.zeros(40, dtype=np.int64), np.zeros(40, dtype=np.int64)
    vector = np.array([below, -below] * 20, dtype=np.float32)
    assert fold(ours, vector, 1) == fixed_point._fold(theirs, vector, 1) == below
    assert ours.tolist() == theirs.tolist() == [2**63 - 2**39, 2**39 - 2**63] * 20


@pytest.mark.parametrize("stride", [1, 2])
def test_the_largest_magnitude(stride: int) -> None:
    vector = np.array([1, -3, 2, 0, -0.5], dtype=np.float32)[::stride]
    assert largest(vector) == (3 if stride == 1 else 2)
    assert largest(vector[:0]) == 0


@pytest.mark.parametrize("bad", [np.nan, -np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_the_largest(bad: float) -> None:
    vector = np.full(100, np.finfo(np.float32).max, dtype=np.float32)
    vector[63] = bad
    assert not np.isfinite(largest(vector))


def test_a_vector_with_gaps_is_added_up_too() -> None:
    sums = np.zeros(6, dtype=np.int64)
    fold(sums[::2], np.ones(6, dtype=np.float32)[::2], 1)
    assert sums.tolist() == [2**34, 0] * 3
