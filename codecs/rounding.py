"""Real numbers as whole ones, the same on every machine."""

import numpy as np
from numpy.typing import NDArray

from fedloom.core.layout import Vector
from fedloom.core.seeds import stream

__all__ = ["rounded"]


def rounded(
    values: Vector, most: int, *, stochastic: bool, seed: int, owner: str
) -> NDArray[np.int8]:
    """Values as whole numbers in -most .. most.

    Args:
        values: float32 ``[P]``; written into.
        most: 1 to 127.
        stochastic: up or down at random, in proportion, so that the mean is the value (Alistarh et
            al., "QSGD", NIPS 2017, section 3.1); else to the nearest, ties to even.
        seed: of the draws.
        owner: name of the stream of draws.
    """
    if stochastic:
        words = stream(seed, owner).words((values.size + 1) // 2)
        halves = words.astype("<u8").view("<u4")[: values.size]
        # 24 bits are what float32 holds exactly, so that the fraction stays below one.
        values += (halves >> 8).astype(np.float32) * np.float32(2.0**-24)
        np.floor(values, out=values)
    np.rint(values, out=values)
    np.minimum(values, np.float32(most), out=values)
    np.maximum(values, np.float32(-most), out=values)
    return values.astype(np.int8)
