"""Directional derivatives from losses alone: nothing but forward passes of the frozen backbone.

For a direction z and a small h,

    s = (f(w + h z) - f(w)) / h              one-sided: the loss at w is shared by all directions
    s = (f(w + h z) - f(w - h z)) / (2 h)    central

estimate the slope of the loss along z, and ``mean_i s_i z_i`` its gradient (SPSA: Spall, IEEE TAC
1992; MeZO: Malladi et al., NeurIPS 2023, definition 1). A client's directions are rows of the same
store that holds clients: k clients times p directions run through one frozen forward.

The gradient of the head needs no estimate. For a softmax classifier it is
``x^T (softmax(W x) - y)``, and everything in it is known after the forward pass.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedloom.core.errors import require
from fedloom.core.layout import Selector
from fedloom.core.scalars import LIMIT
from fedloom.core.steps import Directions
from fedloom.core.types import Briefing, LocalWork, Params
from fedloom.tuning.base import Session
from fedloom.tuning.learners.walk import Walk
from fedloom.tuning.learning import NOTHING, Assignment, LocalResult

__all__ = ["FiniteDifference"]

AT_ONCE = 8
"""Directions of a client that run in one forward pass: the rows that a group of keys has."""


@dataclass(frozen=True)
class FiniteDifference:
    """Zeroth-order steps, sent as scalars of known directions.

    A step of local training takes `directions` of them on one batch and moves along their mean.

    Attributes:
        directions: of each local step.
        difference: ``one-sided`` or ``central``.
        h: how far to look (0: ``0.2 / sqrt(d)`` for weights in float32, ``5 / sqrt(d)`` for
            bfloat16, which rounds away less).
        exact: tensors whose gradient is taken exactly; the head's, or none.
        bits: of a scalar as it is sent and stepped along: 16, 8, or 1 (its sign).
        largest: slope that the largest scalar stands for; with one bit, what a sign stands for.
        scheme: whose directions: ``distinct``, ``shared`` or ``pool``; as the codec has it.
        pool: directions in the pool.
        family: ``rademacher`` or ``gaussian``.

    Raises:
        ConfigError: an option is out of range.
    """

    directions: int = 16
    difference: str = "one-sided"
    h: float = 0.0
    exact: Selector = ("head",)
    bits: int = 16
    largest: float = 64.0
    scheme: str = "distinct"
    pool: int = 4096
    family: str = "rademacher"

    def __post_init__(self) -> None:
        require(1 <= self.directions <= 65536, "directions", self.directions, "1 to 65536")
        known = ("one-sided", "central")
        require(self.difference in known, "difference", self.difference, f"one of {known}")
        require(0 <= self.h < float("inf"), "h", self.h, "0 (chosen by the dimension) or more")
        require(self.bits in (1, 8, 16), "bits", self.bits, "1, 8 or 16")
        require(0 < self.largest < float("inf"), "largest", self.largest, "above 0 and finite")
        _ = self.agreed

    @property
    def agreed(self) -> Directions:
        """Which directions, as clients and server know them."""
        return Directions(self.scheme, self.pool, self.family)

    @property
    def copies(self) -> int:
        """Rows that run at once for each client."""
        sides = 2 if self.difference == "central" else 1
        return sides * min(self.directions, AT_ONCE) + 1

    def train(
        self,
        session: Session,
        params: Params,
        work: LocalWork,
        cohort: Sequence[Assignment],
        briefing: Briefing = NOTHING,
    ) -> list[LocalResult]:
        """Train every client of a chunk; results are in the order of `cohort`."""
        began = time.perf_counter()
        walk = Walk(self, session, params, work, cohort)
        for step in range(walk.steps):
            walk.take(step)
        seconds = (time.perf_counter() - began) / len(cohort)
        return walk.results(seconds)

    @property
    def worth(self) -> float:
        """The slope that one step of a scalar stands for: a power of two."""
        if self.bits == 1:
            return self.largest
        most = LIMIT if self.bits == 16 else 127
        return 2.0 ** math.ceil(math.log2(self.largest / most))

    def quantized(self, slopes: NDArray[np.float64]) -> NDArray[np.int32]:
        """Slopes as the integers that are sent; those too large are clipped, no number is 0."""
        if self.bits == 1:
            return np.where(slopes > 0, 1, -1).astype(np.int32)
        most = LIMIT if self.bits == 16 else 127
        steps = np.clip(np.rint(slopes / self.worth), -most, most)
        whole: NDArray[np.int32] = np.nan_to_num(steps, nan=0.0).astype(np.int32)
        return whole
