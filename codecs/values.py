"""What a codec may be given and may give back: finite numbers, or else the tensor is named."""

import numpy as np
from numpy.typing import NDArray

from fedloom.core.errors import CodecError
from fedloom.core.layout import Layout, Vector
from fedloom.core.types import Delta

__all__ = ["decoded", "peak", "refuse_first"]


def peak(codec: str, delta: Delta) -> float:
    """The largest magnitude in a delta.

    Raises:
        CodecError: a value is NaN or infinite; the message names its tensor.
    """
    vector = delta.vector
    if not vector.size:
        return 0.0
    largest = max(float(vector.max()), -float(vector.min()))
    if not np.isfinite(largest):
        refuse_first(codec, delta.layout, ~np.isfinite(vector), "is not finite")
    return largest


def refuse_first(codec: str, layout: Layout, bad: NDArray[np.bool_], why: str) -> None:
    """Raise `CodecError` naming the tensor of the first true element of `bad` (``[P]``), if any."""
    if not bad.any():
        return
    at = int(bad.argmax())
    name = next(spec.name for spec in layout if at < layout.span(spec.name).stop)
    raise CodecError(f"{codec}: tensor {name!r}: a value {why}", code="not-finite")


def decoded(codec: str, layout: Layout, vector: Vector) -> Delta:
    """A decoded delta, checked to be finite, as every encoded one was.

    Raises:
        CodecError: a value is NaN or infinite.
    """
    delta = Delta(layout, vector)
    peak(codec, delta)
    return delta
