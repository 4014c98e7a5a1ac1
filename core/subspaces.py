"""Random subspaces of a model: few coordinates for many parameters, and nothing to send of them.

A point x of k coordinates stands for the change ``sum_i x_i z_i * scale``, where z_i are directions
of a run's pool (`fedloom.core.steps.Directions`), which clients and server make from its seed. A
coordinate is a small integer times a power of two, so that a change has the same bits wherever it
is made, and is sent as `Steps`.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fedloom.core.errors import require
from fedloom.core.layout import Layout, Vector
from fedloom.core.perturbation_keys import DIRECTIONS
from fedloom.core.scalars import LIMIT
from fedloom.core.steps import FAMILIES, POOL, Directions, Steps

__all__ = ["Subspace", "grain", "rounded", "scale_for"]

_AT_ONCE = 1 << 22
"""Numbers of the basis that are made at a time: 32 MiB in float64."""


def grain(sigma: float) -> float:
    """What an integer of a coordinate stands for: a power of two, at most ``sigma / 256``.

    Sixteen bits then hold coordinates of 64 standard deviations and more.
    """
    return 2.0 ** (math.floor(math.log2(sigma)) - 8)


def scale_for(start: Vector, *, alpha: float, k: int, sigma: float) -> float:
    """The length of a direction's step, so that the first candidates change every parameter alike.

    BBTv2 (Sun et al., EMNLP 2022, section 3.3) draws its projections with the standard deviation
    ``alpha s / (sqrt(k) sigma)``, where s is that of the hidden states which the prompts stand
    beside; a candidate then changes a parameter by ``alpha s``. Here s is the root mean square of
    the parameters as they start, or 1 where they are all zero.

    Args:
        start: the parameters, float32 ``[P]``.
        alpha: change of a parameter by a candidate of the first generation, relative to s.
        k: coordinates.
        sigma: standard deviation of a coordinate in the first generation.

    Returns:
        The nearest power of two, which does not depend on how the sum of squares is rounded.
    """
    spread = math.sqrt(float(np.square(start, dtype=np.float64).mean())) if start.size else 0.0
    usual = spread if 0 < spread < math.inf else 1.0
    return 2.0 ** round(math.log2(alpha * usual / (math.sqrt(k) * sigma)))


@dataclass(frozen=True)
class Subspace:
    """The span of some of a pool's directions, over some tensors.

    Attributes:
        layout: the tensors that change.
        pool: the directions.
        first: number of the first direction that is used.
        k: how many are used.
        coefficient: what an integer of a coordinate is worth.

    Raises:
        ConfigError: the pool has fewer directions.
    """

    layout: Layout
    pool: Directions
    first: int
    k: int
    coefficient: float

    def __post_init__(self) -> None:
        scheme, size = self.pool.scheme, self.pool.pool
        require(scheme == "pool", "scheme", scheme, "pool")
        allowed = f"at most the {size} directions of the pool"
        require(self.first >= 0 and 0 < self.k <= size - self.first, "k", self.k, allowed)

    def steps(self, point: NDArray[np.integer]) -> Steps:
        """The change to a point, as it is sent.

        Args:
            point: integers ``[k]``.
        """
        scalars = np.zeros(self.pool.pool, dtype=np.int32)
        scalars[self.first : self.first + self.k] = point
        return Steps(self.layout, scalars, self.coefficient, self.pool)

    def changes(self, points: NDArray[np.integer], seed: int) -> NDArray[np.float32]:
        """The changes to several points, ``[n, P]``, with the bits of `steps`' own vectors.

        The products are sums of integers, exact in float64.

        Args:
            points: integers ``[n, k]``.
            seed: the run's.
        """
        unit = FAMILIES[self.pool.family].unit
        size, units = self.layout.size, points.astype(np.float64)
        worth = np.float32(self.coefficient * unit)
        out = np.empty((len(points), size), dtype=np.float32)
        width = max(_AT_ONCE // self.k // 32, 1) * 32
        for start in range(0, size, width):
            stop = min(start + width, size)
            total = units @ (self.basis(seed, start, stop).astype(np.float64) / unit)
            out[:, start:stop] = total.astype(np.float32) * worth
        return out

    def basis(self, seed: int, start: int = 0, stop: int | None = None) -> NDArray[np.float32]:
        """The directions themselves, ``[k, stop - start]``; all coordinates unless told.

        Args:
            seed: the run's.
            start: the first coordinate, a multiple of 32.
            stop: one past the last.
        """
        keys = self.pool.keys(seed, round=0, owner=POOL, count=self.first + self.k)
        family = FAMILIES[self.pool.family]
        numbers = np.arange(self.first, self.first + self.k)
        found = np.empty((self.k, (stop or self.layout.size) - start), dtype=np.float32)
        for group in np.unique(numbers // DIRECTIONS):
            rows = np.flatnonzero(numbers // DIRECTIONS == group)
            places = [int(i) for i in numbers[rows] % DIRECTIONS]
            family.fill(found[rows[0] : rows[-1] + 1], keys[int(group)], places, start=start)
        return found


def rounded(point: ArrayLike, step: float) -> NDArray[np.int32]:
    """Coordinates as integers of `step`, at most what 16 bits hold."""
    whole = np.rint(np.asarray(point, dtype=np.float64) / step)
    found: NDArray[np.int32] = np.clip(whole, -LIMIT, LIMIT).astype(np.int32)
    return found
