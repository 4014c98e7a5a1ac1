"""Exact replay: from the addresses and scalars of a round's directions to the update.

The sum over all entries of scalar times direction is made of integers, so that it depends neither
on the order of the entries nor on how coordinates are cut into slices: clients and server that know
the same entries have the same bits. FedKSeed (Qin et al., ICML 2024, equation 5) adds up scaled
Gaussian vectors in the model's own type instead; in fp16 most of such a sum is lost.

One byte of a key's stream holds the signs of eight directions at a coordinate, and the eight
scalars make a table of its 256 sums: one look-up stands for eight multiplications. Tables of 16-bit
words, for two groups or two coordinates at once, take as long to fill as they save; unpacking bits
for a matrix product takes four times as long; counting in bit planes takes more operations than a
look-up.
"""

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from operator import add

import numpy as np
from numpy.typing import NDArray

from fedloom.core.errors import LayoutError, require
from fedloom.core.layout import Vector
from fedloom.core.perturbation_keys import DIRECTIONS
from fedloom.core.perturbations import Accumulator, Family, Rademacher, slices

__all__ = ["Entry", "apply", "entries_of", "replay"]

SLICE = 1 << 17  # coordinates at a time: 2 MiB of scratch, and little of it spent on setting up
RADEMACHER = Rademacher()


@dataclass(frozen=True)
class Entry:
    """One group's part of an update.

    Attributes:
        key: of the group, as `fedloom.core.perturbation_keys` makes it.
        scalars: eight integers, one of each direction; 0 for one that has no part.

    Raises:
        ConfigError: there are more or fewer than eight.
    """

    key: int
    scalars: tuple[int, ...]

    def __post_init__(self) -> None:
        require(len(self.scalars) == DIRECTIONS, "scalars", self.scalars, f"{DIRECTIONS} integers")


def entries_of(keys: Sequence[int], scalars: NDArray[np.integer]) -> list[Entry]:
    """Entries of directions in turn: scalar k belongs to direction ``k % 8`` of key ``k // 8``.

    Args:
        keys: of the groups.
        scalars: integers ``[n]``, at most eight a key; missing ones are 0.

    Raises:
        LayoutError: there are more scalars than the keys have directions.
    """
    room = len(keys) * DIRECTIONS
    if scalars.ndim != 1 or len(scalars) > room:
        raise LayoutError(f"scalars = {list(scalars.shape)}: at most {room}, eight a key")
    flat = [int(scalar) for scalar in scalars] + [0] * (room - len(scalars))
    starts = range(0, room, DIRECTIONS)
    return [Entry(k, tuple(flat[i : i + DIRECTIONS])) for k, i in zip(keys, starts, strict=True)]


def replay(
    entries: Iterable[Entry],
    size: int,
    *,
    start: int = 0,
    family: Family = RADEMACHER,
    threads: int = 1,
) -> Accumulator:
    """The sum of scalar times direction at coordinates ``start .. start + size``, in units.

    The result is int32 where no partial sum can leave it: one coordinate of a direction is at most
    `family.peak` in magnitude, so any sum of any of the terms is at most the peak times the sum of
    all scalars' magnitudes. Otherwise it is int64. The type depends on the entries only.

    Args:
        entries: in any order; scalars of the same key add up.
        size: coordinates of the result.
        start: the first of them.
        family: that the directions are of; a unit of the result is `family.unit`.
        threads: slices made side by side; they change nothing but the time.

    Raises:
        ConfigError: a number is out of range, or the sum could leave int64.
    """
    require(size >= 0, "size", size, "0 or more")
    require(threads > 0, "threads", threads, "1 or more")
    merged = _merge(entries)
    result = _zeros(size, family.peak * sum(abs(s) for scalars in merged.values() for s in scalars))

    def fill(bounds: tuple[int, int]) -> None:
        piece = result[bounds[0] - start : bounds[1] - start]
        for key, scalars in merged.items():
            family.add(piece, key, scalars, start=bounds[0])

    parts = slices(start, start + size, SLICE)
    if threads == 1:  # starting a thread takes longer than a small model does
        for bounds in parts:
            fill(bounds)
        return result
    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(fill, parts):
            pass  # asking for a result raises what its slice raised
    return result


def apply(vector: Vector, total: Accumulator, coefficient: float) -> Vector:
    """``vector + float32(total) * float32(coefficient)``, every step rounded on its own.

    Product and sum are two operations of numpy, which no compiler joins into one with a single
    rounding; by IEEE 754 the result is then the same on every processor.

    Args:
        vector: the model that the entries start from, float32 ``[P]``.
        total: what `replay` gave for all of its coordinates.
        coefficient: times the family's unit and the scalars' step; usually negative.

    Raises:
        LayoutError: the lengths differ.
        ConfigError: the coefficient is not finite in float32.
    """
    if vector.shape != total.shape:
        raise LayoutError(f"total = {list(total.shape)}: {list(vector.shape)}, like the vector")
    largest = float(np.finfo(np.float32).max)
    require(abs(coefficient) <= largest, "coefficient", coefficient, "finite in float32")
    result = total.astype(np.float32)
    result *= np.float32(coefficient)
    result += vector
    return result


def _merge(entries: Iterable[Entry]) -> dict[int, tuple[int, ...]]:
    merged: dict[int, tuple[int, ...]] = {}
    for entry in entries:
        known = merged.get(entry.key)
        merged[entry.key] = tuple(map(add, known, entry.scalars)) if known else entry.scalars
    return {key: scalars for key, scalars in merged.items() if any(scalars)}


def _zeros(size: int, bound: int) -> Accumulator:
    require(bound < 2**63, "scalars", bound, "magnitudes whose sum times the peak is below 2^63")
    if bound < 2**31:
        return np.zeros(size, dtype=np.int32)
    return np.zeros(size, dtype=np.int64)
