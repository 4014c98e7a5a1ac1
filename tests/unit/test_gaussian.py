"""The table is golden, its moments are those its file states, and its stream has random access."""

import hashlib
from statistics import NormalDist

import numpy as np
import pytest
from numpy.typing import NDArray

from fedloom.core.errors import LayoutError
from fedloom.core.gaussian import Gaussian, quantiles
from fedloom.core.perturbation_keys import key
from fedloom.core.perturbations import stream_bytes

TABLE = "692fb6d75dcf4fe09afc48e5c58b0532774f608cebb0a9355cf335b73daecdd1"
KEY = key(b"run0" + bytes(12), round=3, client=7, group=0)


def values(size: int, *directions: int, start: int = 0) -> NDArray[np.float32]:
    out = np.empty((len(directions), size), dtype=np.float32)
    Gaussian().fill(out, KEY, directions, start=start)
    return out


def test_the_table_is_golden() -> None:
    table = quantiles()
    assert hashlib.sha256(table.astype("<i2").tobytes()).hexdigest() == TABLE
    assert len(np.unique(table)) == 19323
    assert not table.flags.writeable


def test_no_libm_can_change_the_table() -> None:
    # Doubles near 17715 are 4e-12 apart: a logarithm may err by millions of such steps.
    normal = NormalDist()
    exact = np.array([4096.0448 * normal.inv_cdf((w + 0.5) / 65536) for w in range(65536)])
    to_a_half = np.abs(exact - np.floor(exact) - 0.5)
    assert to_a_half.min() > 1e-5
    assert np.array_equal(np.rint(exact), quantiles())


def test_the_moments_of_the_table() -> None:
    z = quantiles().astype(np.int64)
    assert z.sum() == 0
    assert (z**3).sum() == 0
    assert abs(int((z**2).sum()) / 2**40 - 1) < 6e-7  # 65,536 squares of 4096 = 2^40
    assert abs(float((z / 4096.0) ** 4 @ np.full(65536, 2.0**-16)) - 2.99925) < 1e-5
    assert z.max() == -z.min() == Gaussian().peak


def test_the_table_is_antisymmetric_and_ascending() -> None:
    table = quantiles().astype(np.int64)
    assert np.array_equal(table, -table[::-1])
    assert (np.diff(table) >= 0).all()


def test_values_are_golden() -> None:
    # Direction 2 is channel 3. The quantiles of (w + 1/2) / 65536 of its first three words, times
    # 4096.0448, are 892.889, 8476.820 and 7480.886.
    words = stream_bytes(KEY, 0, 6, channel=3).view("<u2").tolist()
    assert words == [38422, 64274, 63314]
    assert values(3, 2).tolist() == [[893 / 4096, 8477 / 4096, 7481 / 4096]]


@pytest.mark.parametrize(("start", "stop"), [(0, 0), (1, 2), (15, 17), (16, 32), (65_000, 70_000)])
def test_any_slice_is_made_alone(start: int, stop: int) -> None:
    whole = values(70_000, 0, 7)
    assert np.array_equal(values(stop - start, 0, 7, start=start), whole[:, start:stop])


def test_samples_are_normal() -> None:
    # Of n numbers: mean 1/sqrt(n), variance sqrt(2/n), fourth moment sqrt(96/n), cosines 1/sqrt(n).
    n = 200_000
    rows = values(n, *range(8)).astype(np.float64)
    assert np.abs(rows.mean(axis=1)).max() < 4 * n**-0.5
    assert np.abs((rows**2).mean(axis=1) - 1).max() < 4 * (2 / n) ** 0.5
    assert np.abs((rows**4).mean(axis=1) - 3).max() < 4 * (96 / n) ** 0.5
    assert np.abs(rows @ rows.T / n - np.diag((rows**2).mean(axis=1))).max() < 5 * n**-0.5


def test_samples_follow_the_distribution() -> None:
    # Kolmogorov-Smirnov: the largest difference of distributions exceeds 1.95 / sqrt(n) with
    # probability 0.001; the table's own steps add 2^-16.
    n = 50_000
    ordered = np.sort(values(n, 4)[0].astype(np.float64))
    cdf = np.array([NormalDist().cdf(x) for x in ordered.tolist()])
    assert np.abs(cdf - np.arange(1, n + 1) / n).max() < 1.95 / n**0.5


def test_the_sum_of_a_group_is_values_times_scalars() -> None:
    scalars = (3, -1, 0, 1, -5, 2, 0, -7)
    out = np.full(40, 7, dtype=np.int32)
    Gaussian().add(out, KEY, scalars, start=11)
    rows = (values(40, *range(8), start=11) * np.float32(4096)).astype(np.int64)
    assert out.tolist() == (7 + np.array(scalars) @ rows).tolist()


def test_large_sums_are_exact_in_int64() -> None:
    scalars = (2**40, 0, 0, 0, 0, 0, 0, -1)
    out = np.zeros(5, dtype=np.int64)
    Gaussian().add(out, KEY, scalars)
    units = (values(5, 0, 7) * np.float32(4096)).astype(np.int64)
    assert out.tolist() == (2**40 * units[0] - units[1]).tolist()


def test_rows_are_float32() -> None:
    with pytest.raises(LayoutError, match="out = int8: float32"):
        Gaussian().fill(np.empty((1, 4), dtype=np.int8), KEY, (0,))
