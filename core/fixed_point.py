"""Adding to sums in fixed point, by compiled C where there is some, else by numpy: the same bits.

A number counts as ``rint(x * 2^34)``, which int64 adds up exactly, in any order.
"""

import ctypes

import numpy as np
from numpy.typing import NDArray

from fedloom.core.compiled import compiled
from fedloom.core.layout import Vector

__all__ = ["SCALE", "fold", "largest"]

SCALE = 2.0**34
_MODULE = "fedloom.core._fixed_point"
_CHUNK = 1 << 16  # elements worked on at a time: the scratch (768 kB) stays in a core's cache
_POINTER, _COUNT = ctypes.c_void_p, ctypes.c_int64


def largest(vector: Vector) -> float:
    """The largest magnitude in float32 ``[n]``; infinite or NaN where one of them is; 0 of none."""
    if not vector.size:
        return 0.0
    library = compiled(_MODULE, _declare)
    if library is None or not vector.flags.c_contiguous:
        return max(float(vector.max()), -float(vector.min()))
    bits = np.uint32(library.fedloom_largest(vector.ctypes.data, vector.size))
    return float(bits.view(np.float32))


def fold(sums: NDArray[np.int64], vector: Vector, weight: int) -> None:
    """``sums += rint(vector * 2^34) * weight`` in place, without a temporary of their length.

    Args:
        sums: int64 ``[n]``.
        vector: float32 ``[n]``, finite; the caller has seen to it that all of it fits.
        weight: what each number counts for.
    """
    library = compiled(_MODULE, _declare)
    if library is None or not (vector.flags.c_contiguous and sums.flags.c_contiguous):
        _fold(sums, vector, weight)
    else:
        library.fedloom_fold(sums.ctypes.data, vector.ctypes.data, vector.size, SCALE, weight)


def _fold(sums: NDArray[np.int64], vector: Vector, weight: int) -> None:
    size = min(_CHUNK, vector.size)
    scaled, whole = np.empty(size, dtype=np.float32), np.empty(size, dtype=np.int64)
    for start in range(0, vector.size, _CHUNK):
        part = vector[start : start + _CHUNK]
        q, words = scaled[: part.size], whole[: part.size]
        np.multiply(part, np.float32(SCALE), out=q)  # exact: a power of two
        np.rint(q, out=q)
        np.copyto(words, q, casting="unsafe")  # exact: rounded, and within the bound
        if weight != 1:
            words *= weight
        sums[start : start + _CHUNK] += words


def _declare(library: ctypes.CDLL) -> None:
    library.fedloom_largest.argtypes = [_POINTER, _COUNT]
    library.fedloom_largest.restype = ctypes.c_uint32
    library.fedloom_fold.argtypes = [_POINTER, _POINTER, _COUNT, ctypes.c_float, _COUNT]
    library.fedloom_fold.restype = None
