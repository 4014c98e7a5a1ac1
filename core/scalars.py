"""Scalars of directional derivatives as small integers, the same on clients and server.

The server says the step of a round, a power of two, so that multiplying by it is exact; a client
sends 16-bit integers and goes on with what they stand for, not with what it measured.
"""

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fedloom.core.errors import UpdateRefusedError, require

__all__ = ["LIMIT", "dequantize", "quantize", "step_for"]

LIMIT = 32767  # -32768 is left out: the negative of a scalar is a scalar


def quantize(scalars: ArrayLike, step: float) -> NDArray[np.int16]:
    """The nearest multiples of `step`, to the even one where two are as near.

    Args:
        scalars: directional derivatives, of any shape.
        step: a power of two.

    Raises:
        ConfigError: the step is not a power of two.
        UpdateRefusedError: a scalar is not finite, or more than `LIMIT` steps from zero.
    """
    _check_step(step)
    values = np.asarray(scalars, dtype=np.float64)
    if not np.isfinite(values).all():
        raise UpdateRefusedError("scalars: NaN or infinite", code="not-finite")
    with np.errstate(over="ignore"):  # what overflows is refused below
        steps = np.rint(values / step)
    largest = float(np.abs(values).max(initial=0))
    if np.abs(steps).max(initial=0) > LIMIT:
        text = f"scalars: {largest:g} exceeds {LIMIT} steps of {step:g} = {LIMIT * step:g}"
        raise UpdateRefusedError(text, code="saturated")
    return steps.astype(np.int16)


def dequantize(scalars: NDArray[np.int16], step: float) -> NDArray[np.float64]:
    """What quantised scalars stand for, exactly.

    Raises:
        ConfigError: the step is not a power of two.
    """
    _check_step(step)
    return scalars * np.float64(step)


def step_for(largest: float) -> float:
    """The smallest power of two by which scalars up to `largest` can be sent.

    Raises:
        ConfigError: `largest` is not positive and finite.

    >>> step_for(3.0)
    0.0001220703125
    """
    require(0 < largest < math.inf, "largest", largest, "positive and finite")
    mantissa, exponent = math.frexp(largest / LIMIT)
    return math.ldexp(1.0, exponent - 1 if mantissa == 0.5 else exponent)


def _check_step(step: float) -> None:
    power = 0 < step < math.inf and math.frexp(step)[0] == 0.5
    require(power, "step", step, "a power of two, such as 0.0009765625")
