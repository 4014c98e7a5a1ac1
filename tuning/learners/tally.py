"""A client's integer steps along directions, which the server can make again to the bit.

Nothing here loads torch: clients with and without it move by the same numbers.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fedloom.core.layout import Layout, Vector
from fedloom.core.perturbation_keys import DIRECTIONS
from fedloom.core.replay import apply
from fedloom.core.steps import FAMILIES, Steps
from fedloom.core.types import LocalWork
from fedloom.tuning.learners.choice import Numbers
from fedloom.tuning.learners.search import Search

__all__ = ["Tally"]


class Tally:
    """Where integer steps have brought one client.

    It stands at its start plus ``float32(sum) * float32(worth)``, its sum over all steps of the
    round kept in integers as `core.replay` keeps it. Where a direction is taken again its scalars
    add up; a sum that does not fit the bits that are sent is clipped, and the client goes no
    farther than what it sends says.

    Attributes:
        scale: slopes are so many times smaller than what they stand for.
        worth: what one step is worth.

    Args:
        search: what scalars stand for.
        work: the numbers of local training.
        moved: the tensors that move.
        keys: of the client's directions.
        slots: how many directions it may use.
    """

    def __init__(
        self, search: Search, work: LocalWork, *, moved: Layout, keys: Sequence[int], slots: int
    ) -> None:
        self._search, self._moved, self._keys = search, moved, keys
        self._family = FAMILIES[search.agreed.family]
        self.scale = work.batch_size if search.per_example else 1
        self.worth = -work.lr / (search.directions * self.scale) * search.worth
        self._scalars = np.zeros(slots, dtype=np.int64)
        self._total = np.zeros(moved.size, dtype=np.int64)

    def add(self, numbers: Numbers, slopes: NDArray[np.float64]) -> tuple[NDArray[np.int64], int]:
        """Move along directions.

        Args:
            numbers: int64 ``[r]``: which directions.
            slopes: float64 ``[r]``, along them.

        Returns:
            The integers that the slopes came to, ``[r]``, and how many sums were clipped.
        """
        steps = self._search.quantized(slopes * self.scale)
        whole = self._scalars.copy()
        np.add.at(whole, numbers, steps)
        kept = np.clip(whole, -self._search.most, self._search.most)
        added, self._scalars = kept - self._scalars, kept
        for group in np.unique(numbers // DIRECTIONS):
            eight = added[group * DIRECTIONS : (group + 1) * DIRECTIONS]
            eight = np.pad(eight, (0, DIRECTIONS - len(eight)))
            self._family.add(self._total, self._keys[int(group)], eight.tolist())
        return steps, int((kept != whole).sum())

    def place(self, start: Vector) -> Vector:
        """Where the client is, float32 ``[d]``, when it began at `start`."""
        return apply(start, self._total, self.worth * self._family.unit)

    def steps(self, *more: int) -> Steps:
        """What is sent: the scalars, and what stands after them."""
        scalars = np.concatenate((self._scalars, more)).astype(np.int32)
        return Steps(self._moved, scalars, self.worth, self._search.agreed)
