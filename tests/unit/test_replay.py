"""A replay is exact integer arithmetic: against plain matrices, and bit for bit without SIMD."""

import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from replay_digest import demo_digest, used_features

from fedloom.core import replay as module
from fedloom.core.errors import ConfigError, LayoutError
from fedloom.core.gaussian import Gaussian
from fedloom.core.perturbation_keys import key, keys, pool_keys, run_id
from fedloom.core.perturbations import Family, Rademacher
from fedloom.core.replay import Entry, apply, entries_of, replay

KEYS = keys(run_id(1), 24, round=2, client=5)
SCALARS = np.arange(-11, 13)
GOLDEN = "7527bdb429f1c5308998b8a3db933155f416cb74aa723cc505fb239e0dab0584"
FAMILIES: list[Family] = [Rademacher(), Gaussian()]


def by_matrix(family: Family, size: int, start: int = 0) -> list[int]:
    """Scalars times all directions, by definition, in integers."""
    rows = np.empty((24, size), dtype=np.float32)
    for group, name in enumerate(KEYS):
        family.fill(rows[8 * group : 8 * group + 8], name, range(8), start=start)
    units = (rows / np.float32(family.unit)).astype(np.int64)
    return [int(value) for value in SCALARS @ units]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_replay_is_scalars_times_directions(family: Family) -> None:
    total = replay(entries_of(KEYS, SCALARS), 100, family=family)
    assert total.dtype == np.int32
    assert total.tolist() == by_matrix(family, 100)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_part_is_a_slice_of_the_whole(family: Family) -> None:
    listed = entries_of(KEYS, SCALARS)
    assert replay(listed, 37, start=19, family=family).tolist() == by_matrix(family, 37, 19)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("size", [1, 31, 32, 100, 1000])
def test_slices_and_threads_change_nothing(
    monkeypatch: pytest.MonkeyPatch, family: Family, size: int
) -> None:
    listed = entries_of(KEYS, SCALARS)
    whole = replay(listed, 900, start=3, family=family)
    monkeypatch.setattr(module, "SLICE", size)
    assert replay(listed, 900, start=3, family=family).tolist() == whole.tolist()
    assert replay(listed, 900, start=3, family=family, threads=3).tolist() == whole.tolist()


def test_scalars_of_a_key_add_up() -> None:
    # 5 + 2 of direction 0, and 1 - 1 = 0 of direction 1.
    twice = [Entry(KEYS[0], (5, 1, *[0] * 6)), Entry(KEYS[0], (2, -1, *[0] * 6))]
    once = [Entry(KEYS[0], (7, *[0] * 7))]
    assert replay(twice, 50).tolist() == replay(once, 50).tolist()


def test_nothing_adds_up_to_zeros() -> None:
    assert replay([], 3).tolist() == [0, 0, 0]
    assert replay(entries_of(KEYS, SCALARS), 0).tolist() == []


def test_scalars_are_dealt_out_in_turn() -> None:
    listed = entries_of(KEYS[:2], np.array([1, 2, 3, 4, 5, 6, 7, 8, 9], dtype=np.int16))
    assert listed == [
        Entry(KEYS[0], (1, 2, 3, 4, 5, 6, 7, 8)),
        Entry(KEYS[1], (9, 0, 0, 0, 0, 0, 0, 0)),
    ]


def test_int32_as_long_as_no_sum_can_leave_it() -> None:
    # All eight signs may agree at a coordinate: 8 * 2^28 = 2^31 does not fit, one less does.
    fits = [Entry(KEYS[0], (*[2**28] * 7, 2**28 - 1))]
    leaves = [Entry(KEYS[0], (2**28,) * 8)]
    assert replay(fits, 5).dtype == np.int32
    assert replay(leaves, 5).dtype == np.int64


def test_int32_is_not_left_at_its_bound() -> None:
    # The worst coordinate of 2,000 takes all signs of 8 directions the same way.
    scalars = (*[2**28] * 7, 2**28 - 1)
    narrow = replay([Entry(KEYS[0], scalars)], 2000)
    wide = np.zeros(2000, dtype=np.int64)
    Rademacher().add(wide, KEYS[0], scalars)
    assert narrow.tolist() == wide.tolist()
    assert int(np.abs(wide).max()) == 2**31 - 1


def test_the_bound_counts_the_largest_value() -> None:
    # 2^31 / 17715 = 121,224.9: that many steps of one Gaussian direction fit.
    for scalar, dtype in ((121_224, np.int32), (121_225, np.int64)):
        listed = [Entry(KEYS[0], (scalar, *[0] * 7))]
        assert replay(listed, 5, family=Gaussian()).dtype == dtype


def test_sums_beyond_int64_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"magnitudes whose sum times the peak is below 2\^63"):
        replay([Entry(KEYS[0], (2**60,) * 8)], 5)


def test_thousands_of_keys_need_little_memory() -> None:
    names = pool_keys(run_id(3), 8 * 2000)
    listed = [Entry(name, (1, -2, 3, -4, 5, -6, 7, -8)) for name in names]
    tracemalloc.start()
    total = replay(listed, 25_000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak - total.nbytes < 8 * 2**20


def test_scratch_stays_small_for_long_vectors() -> None:
    listed = entries_of(KEYS, SCALARS)
    tracemalloc.start()
    total = replay(listed, 2_000_000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak - total.nbytes < 4 * 2**20


def test_the_update_is_rounded_after_the_product_and_after_the_sum() -> None:
    # c = 1 + 2^-23 and total 2^12 + 1: the product 4097 + 4097 * 2^-23 = 4097.000488... is between
    # 4097 and 4097 + 2^-11, nearer to the latter (4097 * 2^-23 = 2^-11 + 2^-23). Less 4097 that is
    # 2^-11; a fused operation would keep the 2^-23 as well.
    coefficient = 1 + 2.0**-23
    result = apply(np.array([-4097], dtype=np.float32), np.array([4097], np.int32), coefficient)
    assert result.tolist() == [2.0**-11]
    assert 4097 * coefficient - 4097 == 2.0**-11 + 2.0**-23


def test_the_width_of_the_sum_does_not_matter() -> None:
    vector = np.linspace(-1, 1, 2000, dtype=np.float32)
    total = replay([Entry(KEYS[0], (2**24 + 1, 2**24 + 3, *[0] * 6))], 2000)
    narrow, wide = apply(vector, total, -1e-9), apply(vector, total.astype(np.int64), -1e-9)
    assert narrow.dtype == np.float32
    assert narrow.tobytes() == wide.tobytes()


def test_the_vector_is_not_written_to() -> None:
    vector = np.zeros(3, dtype=np.float32)
    assert apply(vector, np.array([1, 2, 3], np.int32), 0.5).tolist() == [0.5, 1, 1.5]
    assert vector.tolist() == [0, 0, 0]


@pytest.mark.parametrize("coefficient", [float("nan"), float("inf"), 1e39])
def test_coefficients_are_finite(coefficient: float) -> None:
    with pytest.raises(ConfigError, match=r"coefficient = \S+: finite in float32"):
        apply(np.zeros(1, dtype=np.float32), np.zeros(1, np.int32), coefficient)


def test_lengths_must_agree() -> None:
    with pytest.raises(LayoutError, match=r"total = \[3\]: \[2\], like the vector"):
        apply(np.zeros(2, dtype=np.float32), np.zeros(3, np.int32), 1)


def test_an_entry_has_eight_scalars() -> None:
    with pytest.raises(ConfigError, match=r"scalars = \(1, 2\): 8 integers"):
        Entry(KEYS[0], (1, 2))


@pytest.mark.parametrize("shape", [(25,), (2, 8)])
def test_scalars_without_a_direction_are_refused(shape: tuple[int, ...]) -> None:
    wrong: NDArray[np.int64] = np.zeros(shape, dtype=np.int64)
    with pytest.raises(LayoutError, match="at most 24, eight a key"):
        entries_of(KEYS, wrong)


@pytest.mark.parametrize(("size", "threads"), [(-1, 1), (1, 0)])
def test_sizes_and_threads_are_counts(size: int, threads: int) -> None:
    with pytest.raises(ConfigError, match=r"(size = -1: 0|threads = 0: 1) or more"):
        replay([], size, threads=threads)


def test_a_bad_key_is_not_lost_in_a_thread() -> None:
    with pytest.raises(ConfigError, match="key = -1"):
        replay([Entry(-1, (1,) * 8)], 4, threads=2)


def test_the_demo_ledger_is_golden() -> None:
    assert demo_digest() == GOLDEN


def test_the_golden_bits_need_no_simd() -> None:
    variables = os.environ | {
        "NPY_DISABLE_CPU_FEATURES": " ".join(used_features()),
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    path = Path(__file__).with_name("replay_digest.py")
    done = subprocess.run(
        [sys.executable, str(path)], env=variables, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == [GOLDEN, "0"]


def test_the_specification_has_groups_of_eight() -> None:
    name = key(b"run0" + bytes(12), round=3, client=7, group=0)
    # Bytes 31 88 88: direction 0 has + - -, direction 7 has - + +.
    assert replay([Entry(name, (1, *[0] * 6, 100))], 3).tolist() == [1 - 100, -1 + 100, -1 + 100]
