"""The bits are those of FLZ-1, of philox4x64-10 written out, and of +1 and -1 with equal chance."""

import numpy as np
import pytest
from numpy.typing import NDArray

from fedloom.core.errors import ConfigError, LayoutError
from fedloom.core.perturbation_keys import key, keys
from fedloom.core.perturbations import Matrix, Rademacher, slices, stream_bytes

RUN = b"run0" + bytes(12)
KEY = key(RUN, round=3, client=7, group=0)
MASK = 2**64 - 1


def philox4x64(counter: int, key: int) -> bytes:
    """philox4x64-10 as published (Salmon et al., SC 2011, section 3.3 and table 2)."""
    x = [counter >> 64 * i & MASK for i in range(4)]
    k = [key & MASK, key >> 64]
    for _ in range(10):
        first, second = 0xD2E7470EE14C6C93 * x[0], 0xCA5A826395121157 * x[2]
        x = [second >> 64 ^ x[1] ^ k[0], second & MASK, first >> 64 ^ x[3] ^ k[1], first & MASK]
        k = [k[0] + 0x9E3779B97F4A7C15 & MASK, k[1] + 0xBB67AE8584CAA73B & MASK]
    return b"".join(word.to_bytes(8, "little") for word in x)


def signs(key: int, size: int, *directions: int, start: int = 0) -> NDArray[np.float32]:
    out = np.empty((len(directions), size), dtype=np.float32)
    Rademacher().fill(out, key, directions, start=start)
    return out


def test_the_philox_of_this_test_gives_the_published_answer() -> None:
    # Random123's known answer for counter 0, key 0.
    words = ["16554d9eca36314c", "db20fe9d672d0fdc", "d7e772cee186176b", "7e68b68aec7ba23b"]
    assert philox4x64(0, 0) == b"".join(bytes.fromhex(word)[::-1] for word in words)


@pytest.mark.parametrize("name", [0, KEY, 2**128 - 1])
@pytest.mark.parametrize("block", [0, 1, 1000, 2**63])
@pytest.mark.parametrize("channel", [0, 1, 8])
def test_a_block_is_philox_one_counter_on(name: int, block: int, channel: int) -> None:
    start = 32 * block
    expected = philox4x64(block + 1 + (channel << 192), name)
    assert stream_bytes(name, start, start + 32, channel=channel).tobytes() == expected


def test_the_known_answers_of_the_specification() -> None:
    assert stream_bytes(KEY, 0, 16).tobytes().hex() == "3188886351650b1eb5c2cb1e9a2e848e"
    # The lowest bits of 31 88 88 63 51 65 0b 1e b5 c2 cb 1e 9a 2e 84 8e.
    first = [1, -1, -1, 1, 1, 1, 1, -1, 1, -1, 1, -1, -1, -1, -1, -1]
    assert signs(KEY, 16, 0).tolist() == [first]
    words = stream_bytes(0, 0, 32).view("<u8").tolist()
    expected = "02f4ba6408e4d89b 3dd62b0b9ca8c5b2 1c8667a55d902e79 907d7a052fd5b4dc"
    assert " ".join(f"{word:016x}" for word in words) == expected


def test_bit_i_is_direction_i() -> None:
    # Byte 0 is 0x31 = 0b00110001, byte 3 is 0x63 = 0b01100011; the lowest bit comes first.
    all_eight = signs(KEY, 4, *range(8))
    assert all_eight[:, 0].tolist() == [1, -1, -1, -1, 1, 1, -1, -1]
    assert all_eight[:, 3].tolist() == [1, 1, -1, -1, -1, 1, 1, -1]


@pytest.mark.parametrize("out", [np.zeros((3, 50), np.int8), np.zeros((3, 50), np.float32)])
def test_rows_come_in_the_order_asked_for(out: Matrix) -> None:
    Rademacher().fill(out, KEY, (5, 0, 5), start=7)
    expected = signs(KEY, 57, 5, 0, 5)[:, 7:]
    assert np.array_equal(out, expected)


def test_rows_may_lie_inside_a_larger_array() -> None:
    whole = np.zeros((2, 20), dtype=np.float32)
    Rademacher().fill(whole[:, 4:14], KEY, (0, 1))
    assert np.array_equal(whole[:, 4:14], signs(KEY, 10, 0, 1))
    assert not whole[:, :4].any()
    assert not whole[:, 14:].any()


@pytest.mark.parametrize(
    ("start", "stop"), [(0, 0), (0, 1), (1, 2), (31, 33), (32, 64), (5, 5), (65_530, 131_100)]
)
def test_any_slice_is_made_alone(start: int, stop: int) -> None:
    assert np.array_equal(stream_bytes(KEY, start, stop), stream_bytes(KEY, 0, 140_000)[start:stop])
    part = signs(KEY, stop - start, 2, start=start)
    assert np.array_equal(part, signs(KEY, 140_000, 2)[:, start:stop])


def test_far_coordinates_need_nothing_before_them() -> None:
    far = 10**15
    assert stream_bytes(KEY, far, far + 1).tobytes() == philox4x64(far // 32 + 1, KEY)[:1]


def test_means_are_zero() -> None:
    # A mean of n signs has the standard deviation 1 / sqrt(n); 4 of them for 32 means.
    n = 100_000
    for name in keys(RUN, 32, round=0, client=1):
        assert np.abs(signs(name, n, *range(8)).mean(axis=1)).max() < 4 / n**0.5


def test_directions_are_uncorrelated() -> None:
    # 64 directions of 8 groups: 2016 cosines, of standard deviation 1 / sqrt(n) each.
    n = 50_000
    groups = keys(RUN, 64, round=0, client=2)
    rows = np.concatenate([signs(name, n, *range(8)) for name in groups])
    cosines = rows @ rows.T / n - np.eye(64)
    assert np.abs(cosines).max() < 5 / n**0.5


def test_all_bytes_are_equally_frequent() -> None:
    # Chi-squared of 256 counts: 255 degrees of freedom, standard deviation sqrt(2 * 255) = 22.6.
    n = 1 << 20
    counts = np.bincount(stream_bytes(KEY, 0, n), minlength=256)
    chi = float(((counts - n / 256) ** 2).sum() / (n / 256))
    assert abs(chi - 255) < 5 * 22.6


def test_neighbours_are_uncorrelated() -> None:
    n = 200_000
    row = signs(KEY, n, 3)[0]
    assert all(abs(float(row[:-lag] @ row[lag:])) < 5 * n**0.5 for lag in (1, 2, 8, 32, 64))


def test_the_sum_of_a_group_is_signs_times_scalars() -> None:
    # int32 result to which is added: what was there stays in it.
    scalars = (3, -1, 4, 1, -5, 9, 0, -32767)
    out = np.full(40, 7, dtype=np.int32)
    Rademacher().add(out, KEY, scalars, start=11)
    rows = signs(KEY, 40, *range(8), start=11).astype(np.int64)
    assert out.tolist() == (7 + np.array(scalars) @ rows).tolist()


def test_pieces_end_at_multiples() -> None:
    assert list(slices(0, 10, 4)) == [(0, 4), (4, 8), (8, 10)]
    assert list(slices(5, 9, 4)) == [(5, 8), (8, 9)]
    assert list(slices(3, 3, 4)) == []


def test_a_slice_cannot_end_before_it_starts() -> None:
    with pytest.raises(ConfigError, match="start = 5: 0 to 4, where the slice stops"):
        stream_bytes(KEY, 5, 4)
    with pytest.raises(ConfigError, match="start = -1: 0 to 4"):
        stream_bytes(KEY, -1, 4)


def test_a_key_has_128_bits() -> None:
    with pytest.raises(ConfigError, match=r"key = -1: 0 to 2\^128 - 1"):
        stream_bytes(-1, 0, 4)


@pytest.mark.parametrize("direction", [-1, 8])
def test_a_group_has_eight_directions(direction: int) -> None:
    with pytest.raises(ConfigError, match=f"direction = {direction}: 0 to 7"):
        signs(KEY, 4, direction)


def test_the_array_must_fit() -> None:
    with pytest.raises(LayoutError, match=r"out = \[3, 4\]: \[2, m\], a row per direction"):
        Rademacher().fill(np.empty((3, 4), dtype=np.int8), KEY, (0, 1))
    wrong: NDArray[np.float32] = np.empty((1, 4), dtype=np.float64)
    with pytest.raises(LayoutError, match="out = float64: int8 or float32"):
        Rademacher().fill(wrong, KEY, (0,))
