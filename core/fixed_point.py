"""Adding to sums in fixed point, by compiled C where there is some, else by numpy: the same bits.

A number counts as ``rint(x * 2^34)``, which int64 adds up exactly, in any order.
"""

import ctypes
import math

import numpy as np
from numpy.typing import NDArray

from fedloom.core.compiled import compiled
from fedloom.core.layout import Vector

__all__ = ["SCALE", "fold", "largest"]

SCALE = 2.0**34
_TOO_LARGE = 2.0**29  # times the scale it leaves int64
_MODULE = "fedloom.core._fixed_point"
_CHUNK = 1 << 16  # elements worked on at a time: the scratch (768 kB) stays in a core's cache
_POINTER, _COUNT = ctypes.c_void_p, ctypes.c_int64


def largest(vector: Vector) -> float:
    """The largest magnitude in float32 ``[n]``; infinite where one is that, or NaN; 0 of none."""
    if not vector.size:
        return 0.0
    library = compiled(_MODULE, _declare)
    if library is None or not vector.flags.c_contiguous:
        return _largest(vector)
    return _number(library.fedloom_largest(vector.ctypes.data, vector.size))


def fold(sums: NDArray[np.int64], vector: Vector, weight: int) -> float:
    """``sums += rint(vector * 2^34) * weight`` in place, modulo 2^64, in one pass.

    Whether it fits is for the caller to see from what comes back: folding the same vector with
    ``-weight`` takes it back, to the bit.

    Args:
        sums: int64 ``[n]``.
        vector: float32 ``[n]``.
        weight: what each number counts for.

    Returns:
        The largest magnitude in `vector`, as `largest`. Where it is 2^29 or more, the sums are as
        they were.
    """
    library = compiled(_MODULE, _declare)
    if library is None or not (vector.flags.c_contiguous and sums.flags.c_contiguous):
        return _fold(sums, vector, weight)
    places = sums.ctypes.data, vector.ctypes.data
    return _number(library.fedloom_fold(*places, vector.size, weight))


def _fold(sums: NDArray[np.int64], vector: Vector, weight: int) -> float:
    size, found = min(_CHUNK, vector.size), 0.0
    weight = (weight + 2**63) % 2**64 - 2**63  # as C takes it
    scaled, whole = np.empty(size, dtype=np.float32), np.empty(size, dtype=np.int64)
    for start in range(0, vector.size, _CHUNK):
        part = vector[start : start + _CHUNK]
        found = max(found, _largest(part))
        if not found < _TOO_LARGE:
            _fold(sums[:start], vector[:start], -weight)
            return _largest(vector)
        q, words = scaled[: part.size], whole[: part.size]
        np.multiply(part, np.float32(SCALE), out=q)  # exact: a power of two
        np.rint(q, out=q)
        np.copyto(words, q, casting="unsafe")  # exact: rounded, and below 2^63
        if weight != 1:
            words *= weight
        sums[start : start + _CHUNK] += words
    return found


def _largest(vector: Vector) -> float:
    found = max(float(vector.max()), -float(vector.min()))
    return math.inf if math.isnan(found) else found


def _number(bits: int) -> float:
    found = float(np.uint32(bits).view(np.float32))
    return math.inf if math.isnan(found) else found


def _declare(library: ctypes.CDLL) -> None:
    library.fedloom_largest.argtypes = [_POINTER, _COUNT]
    library.fedloom_largest.restype = ctypes.c_uint32
    library.fedloom_fold.argtypes = [_POINTER, _POINTER, _COUNT, _COUNT]
    library.fedloom_fold.restype = ctypes.c_uint32
