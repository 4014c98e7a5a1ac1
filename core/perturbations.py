"""Random directions of zeroth-order methods: the same bits everywhere, from any coordinate on.

FLZ-1. A group of eight Rademacher directions is one stream of Philox4x64-10 (Salmon et al., SC
2011) under the group's key: bit i (the lowest is 0) of byte j is the sign of direction i at
coordinate j of the flat vector, 1 for +1 and 0 for -1. A block has 32 bytes, and block b is made
without those before it. As numpy counts up first, block b is philox4x64-10 at counter b + 1 of the
reference implementation; its 64-bit words are taken as little-endian bytes.

Signs rather than Gaussian numbers lose nothing: the estimate from N directions has the same cosine
with the gradient, sqrt(N / (N + d + 1)) in d dimensions, and no library's normal distribution is
the same on every processor. `fedloom.core.gaussian` is for methods that ask for one all the same.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import DTypeLike, NDArray

from fedloom.core.errors import LayoutError, require
from fedloom.core.perturbation_keys import DIRECTIONS

__all__ = ["Accumulator", "Family", "Matrix", "Rademacher", "check_rows", "slices", "stream_bytes"]

Accumulator: TypeAlias = NDArray[np.int32] | NDArray[np.int64]
Matrix: TypeAlias = NDArray[np.int8] | NDArray[np.float32]

_BLOCK = 32  # bytes that one step of the counter makes
_SLICE = 1 << 16  # coordinates written at a time: what is scratch then stays in the cache
_SIGNS = (np.arange(256)[:, None] >> np.arange(DIRECTIONS) & 1) * 2 - 1  # [byte, direction]


class Family(Protocol):
    """A distribution that directions are drawn from; its values are integers times `unit`."""

    @property
    def unit(self) -> float:
        """What an integer of `add` counts: a power of two."""

    @property
    def peak(self) -> int:
        """The largest magnitude, in units."""

    def fill(self, out: Matrix, key: int, directions: Sequence[int], *, start: int = 0) -> None:
        """Write the values of some of a group's directions, a row each.

        Args:
            out: ``[n, m]``, for the coordinates ``start .. start + m``.
            key: of the group.
            directions: n numbers of 0 to 7.
            start: the first coordinate.

        Raises:
            LayoutError: `out` has other rows than `directions`, or another type.
            ConfigError: a number is out of range.
        """

    def add(self, out: Accumulator, key: int, scalars: Sequence[int], *, start: int = 0) -> None:
        """Add the sum of scalar times direction over a group, in units, exactly.

        Args:
            out: ``[m]``, for the coordinates ``start .. start + m``; wide enough for the sum.
            key: of the group.
            scalars: eight, one of each direction.
            start: the first coordinate.
        """


@dataclass(frozen=True)
class Rademacher:
    """Signs, +1 and -1 with equal chance. Rows are of int8 or float32."""

    unit: float = field(default=1.0, init=False)
    peak: int = field(default=1, init=False)

    def fill(self, out: Matrix, key: int, directions: Sequence[int], *, start: int = 0) -> None:
        """Write ``[n, m]`` signs; see `Family`."""
        check_rows(out, directions, (np.int8, np.float32))
        for a, b in slices(start, start + out.shape[1], _SLICE):
            packed = stream_bytes(key, a, b)
            for row, bit in zip(out[:, a - start : b - start], directions, strict=True):
                row[:] = _signs(packed, bit)

    def add(self, out: Accumulator, key: int, scalars: Sequence[int], *, start: int = 0) -> None:
        """Add the group's sum: one look-up per coordinate in the table of all 256 sums."""
        table = (_SIGNS @ np.array(scalars, dtype=np.int64)).astype(out.dtype)
        # A byte is never out of range; "wrap" is the way of saying so that numpy does fastest.
        out += np.take(table, stream_bytes(key, start, start + len(out)), mode="wrap")


def stream_bytes(key: int, start: int, stop: int, *, channel: int = 0) -> NDArray[np.uint8]:
    """Bytes ``start .. stop`` of a key's stream; for Rademacher signs, one byte per coordinate.

    Args:
        key: of the group.
        start: need not begin a block; what lies before it in its block is made and dropped.
        stop: behind the last byte.
        channel: the highest 64 bits of the counter: streams that never meet.

    Raises:
        ConfigError: a number is negative, or the stream ends before it starts.
    """
    require(0 <= key < 2**128, "key", key, "0 to 2^128 - 1")
    require(0 <= start <= stop, "start", start, f"0 to {stop}, where the slice stops")
    block, head = divmod(start, _BLOCK)
    words = -(-(stop - start + head) // 8)
    stream = np.random.Philox(key=key, counter=(channel << 192) + block)
    raw = np.asarray(stream.random_raw(words), dtype=np.uint64).astype("<u8", copy=False)
    return raw.view(np.uint8)[head : head + stop - start]


def slices(start: int, stop: int, size: int) -> Iterator[tuple[int, int]]:
    """Cut ``start .. stop`` into pieces that end at multiples of `size`, or at `stop`."""
    while start < stop:
        end = min(start - start % size + size, stop)
        yield start, end
        start = end


def check_rows(out: Matrix, directions: Sequence[int], dtypes: Sequence[DTypeLike]) -> None:
    """Raise unless `out` has a row for each of `directions`, which are numbers of a group.

    Raises:
        LayoutError: the array has another shape or type.
        ConfigError: a direction is not one of the group's.
    """
    allowed = [np.dtype(dtype).name for dtype in dtypes]
    if out.ndim != 2 or len(out) != len(directions):
        raise LayoutError(f"out = {list(out.shape)}: [{len(directions)}, m], a row per direction")
    if out.dtype.name not in allowed:
        raise LayoutError(f"out = {out.dtype.name}: {' or '.join(allowed)}")
    for direction in directions:
        require(0 <= direction < DIRECTIONS, "direction", direction, f"0 to {DIRECTIONS - 1}")


def _signs(packed: NDArray[np.uint8], bit: int) -> NDArray[np.int8]:
    doubled = packed << 1 if bit == 0 else packed >> (bit - 1)
    return ((doubled & 2) - 1).view(np.int8)  # 0 - 1 = 255, which is -1
