"""What all learners that move along random directions have in common: how many, and what is sent.

For a direction z the slope of the loss is ``s = g . z``, and ``mean_i s_i z_i`` an estimate of the
gradient g (SPSA: Spall, IEEE TAC 1992; MeZO: Malladi et al., NeurIPS 2023, definition 1). However a
learner finds its slopes, what follows is the same, so that clients of different learners can take
part in one round.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedloom.core.errors import require
from fedloom.core.layout import Selector
from fedloom.core.scalars import LIMIT
from fedloom.core.steps import Directions

__all__ = ["Search"]


@dataclass(frozen=True)
class Search:
    """How clients search along directions, and what they send of it.

    Attributes:
        directions: of each local step, or of each example in it.
        exact: tensors whose gradient is taken exactly; the head's, or none.
        bits: of a scalar as it is sent and stepped along: 16, 8, or 1 (its sign).
        largest: slope that the largest scalar stands for; with one bit, what a sign stands for.
        agreed: which directions, as clients and server know them.
        per_example: every example of a batch has directions of its own.
        guided: the slope along the strategy's guide is found as well, and sent.
        send: ``scalars``, or ``tensors`` for the delta number by number.

    Raises:
        ConfigError: an option is out of range, or does not go with another.
    """

    directions: int
    exact: Selector
    bits: int
    largest: float
    agreed: Directions
    per_example: bool
    guided: bool
    send: str

    def __post_init__(self) -> None:
        require(1 <= self.directions <= 65536, "directions", self.directions, "1 to 65536")
        require(self.bits in (1, 8, 16), "bits", self.bits, "1, 8 or 16")
        require(0 < self.largest < float("inf"), "largest", self.largest, "above 0 and finite")
        require(self.send in ("scalars", "tensors"), "send", self.send, "scalars or tensors")
        if self.guided and self.send == "scalars":
            text = "only with 8 or 16 bits, and scheme 'distinct' or 'shared'"
            require(self.bits > 1 and not self.agreed.numbered, "guided", self.guided, text)
        if self.agreed.scheme == "candidates":
            most, count = self.agreed.pool, self.directions
            require(count <= most, "directions", count, f"at most the pool's {most}, to choose of")

    @property
    def most(self) -> int:
        """The largest scalar that its bits hold."""
        return {1: 1, 8: 127, 16: LIMIT}[self.bits]

    @property
    def worth(self) -> float:
        """The slope that a scalar of one stands for: a power of two."""
        if self.bits == 1:
            return self.largest
        return 2.0 ** math.ceil(math.log2(self.largest / self.most))

    def quantized(self, slopes: NDArray[np.float64]) -> NDArray[np.int64]:
        """Slopes as integers, not yet clipped to what is sent; what is no number is 0."""
        if self.bits == 1:
            return np.where(slopes > 0, 1, -1).astype(np.int64)
        steps = np.nan_to_num(np.rint(slopes / self.worth), nan=0.0)
        whole: NDArray[np.int64] = np.clip(steps, -(2.0**40), 2.0**40).astype(np.int64)
        return whole
