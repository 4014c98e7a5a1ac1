"""Every element by itself, in 32 or 16 bits.

Rounding is to nearest, ties to even (IEEE 754-2019, section 4.3.1), so that a frame is the same on
every machine.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from fedloom.codecs.frame import read_frame, write_frame
from fedloom.codecs.values import decoded, peak, refuse_first
from fedloom.core.errors import CodecError
from fedloom.core.layout import Layout
from fedloom.core.types import Delta, Payload

__all__ = ["BFloat16", "Float16", "Float32"]


@dataclass(frozen=True)
class Float32:
    """Four bytes an element, exact."""

    name: ClassVar[str] = "float32"
    lossless: ClassVar[bool] = True

    def encode(self, delta: Delta, *, seed: int = 0) -> Payload:
        """Pack a delta; `seed` is not used.

        Raises:
            CodecError: a value is NaN or infinite.
        """
        peak(self.name, delta)
        return write_frame(self.name, delta.layout, delta.vector.astype("<f4").tobytes())

    def decode(self, payload: Payload, layout: Layout) -> Delta:
        """Unpack; the vector is a read-only view of the frame where the machine allows it.

        Raises:
            CodecError: the frame is truncated, corrupt or of another layout.
        """
        words = _elements(self.name, payload, layout, "<f4")
        return decoded(self.name, layout, words.astype(np.float32, copy=False))

    def error_bound(self, delta: Delta) -> float:
        """Zero."""
        return 0.0


@dataclass(frozen=True)
class BFloat16:
    """Two bytes an element: float32's range, 8 significant bits.

    The error of a value x is at most ``2^-8 |x|``, or half of bfloat16's smallest step, ``2^-134``.
    """

    name: ClassVar[str] = "bf16"

    def encode(self, delta: Delta, *, seed: int = 0) -> Payload:
        """Pack a delta; `seed` is not used.

        Raises:
            CodecError: a value is NaN or infinite, or rounds to infinity.
        """
        peak(self.name, delta)
        bits = delta.vector.view(np.uint32)
        odd = (bits >> np.uint32(16)) & np.uint32(1)
        rounded = (bits + np.uint32(0x7FFF) + odd) >> np.uint32(16)
        too_large = (rounded & np.uint32(0x7FFF)) == 0x7F80
        refuse_first(self.name, delta.layout, too_large, "is too large for bfloat16 (3.39e38)")
        return write_frame(self.name, delta.layout, rounded.astype("<u2").tobytes())

    def decode(self, payload: Payload, layout: Layout) -> Delta:
        """Unpack.

        Raises:
            CodecError: the frame is truncated, corrupt or of another layout.
        """
        words = _elements(self.name, payload, layout, "<u2")
        bits = words.astype(np.uint32) << np.uint32(16)
        return decoded(self.name, layout, bits.view(np.float32))

    def error_bound(self, delta: Delta) -> float:
        """Half a step at the largest magnitude."""
        return max(peak(self.name, delta) * 2.0**-8, 2.0**-134)


@dataclass(frozen=True)
class Float16:
    """Two bytes an element: 11 significant bits, magnitudes below 65,520.

    The error of a value x is at most ``2^-11 |x|``, or half of float16's smallest step, ``2^-25``.
    """

    name: ClassVar[str] = "fp16"

    def encode(self, delta: Delta, *, seed: int = 0) -> Payload:
        """Pack a delta; `seed` is not used.

        Raises:
            CodecError: a value is NaN or infinite, or rounds to infinity.
        """
        peak(self.name, delta)
        with np.errstate(over="ignore", under="ignore"):
            half = delta.vector.astype("<f2")
        refuse_first(self.name, delta.layout, np.isinf(half), "is too large for float16 (65504)")
        return write_frame(self.name, delta.layout, half.tobytes())

    def decode(self, payload: Payload, layout: Layout) -> Delta:
        """Unpack.

        Raises:
            CodecError: the frame is truncated, corrupt or of another layout.
        """
        halves = _elements(self.name, payload, layout, "<f2")
        return decoded(self.name, layout, halves.astype(np.float32))

    def error_bound(self, delta: Delta) -> float:
        """Half a step at the largest magnitude."""
        return max(peak(self.name, delta) * 2.0**-11, 2.0**-25)


def _elements(codec: str, payload: Payload, layout: Layout, dtype: str) -> NDArray[np.generic]:
    """The body as ``[P]`` of `dtype`, without a copy."""
    body = read_frame(payload, codec, layout)
    expected = layout.size * np.dtype(dtype).itemsize
    if len(body) != expected:
        raise CodecError(f"{codec}: a body of {len(body)} bytes; expected {expected}")
    return np.frombuffer(body, dtype=dtype)
