"""Gaussian directions whose bits are the same on every machine.

Direction i of a group is a stream of its own: channel i + 1 of the key (see `stream_bytes`), whose
little-endian 16-bit words w are the coordinates in turn. The value is that of a table of normal
quantiles, round(4096.0448 * quantile((w + 1/2) / 65536)) / 4096. A block of the stream holds 16
coordinates, and is made without those before it.

What a table can differ by from the normal distribution, exactly:

    mean            0                      the table is antisymmetric
    variance        1 + 5e-7               the factor 1 + 1.1e-5 makes up for the cut tails
    4th moment      2.99925                instead of 3
    largest value   4.3250                 a normal number exceeds it once in 65,000
    values          multiples of 1/4096    19,323 different ones, of the right probability each

Integers make sums exact (`fedloom.core.replay`) and the table independent of the last bits of a
logarithm: no product lies nearer than 1e-5 to the middle between two integers.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from fedloom.core.perturbations import Accumulator, Matrix, check_rows, slices, stream_bytes

__all__ = ["Gaussian", "quantiles"]

_SCALE = 4096.0448  # of all near 4096, the variance is nearest to one and no product near a half
_HALF = 1 << 15
_SLICE = 1 << 16


@dataclass(frozen=True)
class Gaussian:
    """Normal numbers from a table of quantiles. Rows are of float32."""

    unit: float = field(default=2.0**-12, init=False)
    peak: int = field(default=17715, init=False)

    def fill(self, out: Matrix, key: int, directions: Sequence[int], *, start: int = 0) -> None:
        """Write ``[n, m]`` values; see `fedloom.core.perturbations.Family`."""
        check_rows(out, directions, (np.float32,))
        table = quantiles() * np.float32(self.unit)
        for a, b in slices(start, start + out.shape[1], _SLICE):
            for row, direction in zip(out[:, a - start : b - start], directions, strict=True):
                row[:] = np.take(table, _words(key, direction, a, b), mode="wrap")

    def add(self, out: Accumulator, key: int, scalars: Sequence[int], *, start: int = 0) -> None:
        """Add the group's sum, direction by direction."""
        for direction, scalar in enumerate(scalars):
            if scalar:
                words = _words(key, direction, start, start + len(out))
                values = np.take(quantiles(), words, mode="wrap")
                out += np.multiply(values, scalar, dtype=out.dtype)


@cache
def quantiles() -> NDArray[np.int16]:
    """The table ``[65536]``, in units of 2^-12; it is never written to."""
    normal = NormalDist()
    upper = [round(_SCALE * normal.inv_cdf((_HALF + i + 0.5) / (2 * _HALF))) for i in range(_HALF)]
    positive = np.array(upper, dtype=np.int16)
    table = np.concatenate((-positive[::-1], positive))
    table.setflags(write=False)
    return table


def _words(key: int, direction: int, start: int, stop: int) -> NDArray[np.uint16]:
    return stream_bytes(key, 2 * start, 2 * stop, channel=direction + 1).view("<u2")
