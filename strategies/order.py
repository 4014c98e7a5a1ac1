"""Statistics of each column that go by its order: by compiled C where there is some, else by numpy.

Both have the same bits. Sums are in float64 and in the order of the rows; what comes out is rounded
to float32 once, and a zero is positive.
"""

import ctypes
import enum

import numpy as np
from numpy.typing import NDArray

from fedloom.core.compiled import compiled
from fedloom.core.layout import Vector

__all__ = ["Statistic", "of_columns"]

_MODULE = "fedloom.strategies._order"
_TILE = 1 << 18  # numbers that numpy turns and sorts at a time (1 MiB): they stay in the cache
_POINTER, _COUNT, _NUMBER = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int32


class Statistic(enum.IntEnum):
    """What is made of the n values of a column."""

    MEDIAN = 0
    """The middle value; of an even number, the mean of the middle two."""
    TRIMMED = 1
    """The mean of all but the f least and the f greatest."""
    AROUND = 2
    """The mean of the ``n - 2 f`` nearest to the median, by distances in float32. Values just as
    far as the last of them share the places that are left."""


def of_columns(
    statistic: Statistic, rows: NDArray[np.float32], chosen: NDArray[np.intp], f: int = 0
) -> Vector:
    """A statistic of each column over some of the rows, float32 ``[columns]``.

    Args:
        statistic: which.
        rows: float32 ``[clients, columns]``, finite.
        chosen: numbers of the rows that count, in ascending order; more than ``2 f``.
        f: what `statistic` says; the median does not look at it.
    """
    library = compiled(_MODULE, _declare)
    columns_are_whole = rows.strides[1] == rows.itemsize and rows.strides[0] % rows.itemsize == 0
    if library is None or not columns_are_whole:
        return _of_columns(statistic, rows, chosen, f)
    places = np.ascontiguousarray(chosen, dtype=np.int64)
    scratch = np.empty(80 * len(places) + 16, dtype=np.int32)
    out = np.empty(rows.shape[1], dtype=np.float32)
    library.fedloom_by_column(
        *(rows.ctypes.data, places.ctypes.data, len(places), rows.strides[0] // rows.itemsize),
        *(rows.shape[1], int(statistic), f, scratch.ctypes.data, out.ctypes.data),
    )
    return out


def _of_columns(
    statistic: Statistic, rows: NDArray[np.float32], chosen: NDArray[np.intp], f: int
) -> Vector:
    out = np.empty(rows.shape[1], dtype=np.float32)
    width = max(_TILE // len(chosen), 1)
    for start in range(0, rows.shape[1], width):
        values = np.ascontiguousarray(rows[chosen, start : start + width].T)
        with np.errstate(over="ignore"):  # of distances, and of what equal ends put aside
            out[start : start + width] = _of_rows(statistic, values, f) + np.float32(0)
    return out


def _of_rows(statistic: Statistic, values: NDArray[np.float32], f: int) -> Vector:
    if statistic is Statistic.MEDIAN:
        return _median(values)
    return (_trimmed if statistic is Statistic.TRIMMED else _around)(values, f)


def _median(values: NDArray[np.float32]) -> Vector:
    """The median of each row of float32 ``[columns, clients]``."""
    count = values.shape[1]
    middle = [(count - 1) // 2, count // 2]
    pair = np.partition(values, middle, axis=1)[:, middle].astype(np.float64)
    return ((pair[:, 0] + pair[:, 1]) * 0.5).astype(np.float32)


def _trimmed(values: NDArray[np.float32], f: int) -> Vector:
    """The trimmed mean of each row: what is strictly inside, and of the ends what is left."""
    last = values.shape[1] - f
    ends = np.partition(values, [f, last - 1], axis=1)
    low, high = ends[:, f, None], ends[:, last - 1, None]
    sums = _sums(values, (values > low) & (values < high))
    sums += low[:, 0].astype(np.float64) * ((values <= low).sum(axis=1) - f)
    sums += high[:, 0].astype(np.float64) * (last - (values < high).sum(axis=1))
    means = (sums / (last - f)).astype(np.float32)
    return np.asarray(np.where(low == high, low, means[:, None])[:, 0])


def _around(values: NDArray[np.float32], f: int) -> Vector:
    """The mean of each row around its median."""
    kept = values.shape[1] - 2 * f
    centre = _median(values) + np.float32(0)
    away = np.abs(values - centre[:, None])
    limit = np.partition(away, kept - 1, axis=1)[:, kept - 1, None]
    nearer, alike = away < limit, away == limit
    shared = _sums(values, alike) * (kept - nearer.sum(axis=1)) / alike.sum(axis=1)
    means: Vector = ((_sums(values, nearer) + shared) / kept).astype(np.float32)
    return means


def _sums(values: NDArray[np.float32], where: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Sums of each row, one value after the other."""
    inside = np.where(where, values, np.float32(0))
    return np.cumsum(inside, axis=1, dtype=np.float64)[:, -1].copy()


def _declare(library: ctypes.CDLL) -> None:
    counts, places = [_COUNT] * 3, [_POINTER] * 2
    library.fedloom_by_column.argtypes = [*places, *counts, _NUMBER, _NUMBER, *places]
    library.fedloom_by_column.restype = None
