"""Each tensor with as many levels as its range deserves, after FedOBD.

NNADQ (Chen, Chen, Wu and Yu, "FedOBD: Opportunistic Block Dropout for Efficiently Training
Large-scale Neural Networks through Federated Learning", IJCAI 2023, section 4.2). A tensor is moved
to the middle of its range; with m its largest magnitude there, the number of levels minimises
``m / q^2 + weight * log2(q) / bits``:

    q = max(1, floor(sqrt(m * bits * ln 4 / weight)))

An element takes a sign and ``ceil(log2(q + 1))`` bits.

| bytes | what                                                                              |
|-------|-----------------------------------------------------------------------------------|
| 12    | of each tensor: m and what it was moved by (float32), q (uint32)                  |
| ...   | of each tensor: signs, then the bits of its levels, the lowest first; eight       |
|       | elements a byte                                                                   |

A frame says how to read itself: whoever decodes needs no options.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fedloom.codecs.frame import read_frame, write_frame
from fedloom.codecs.values import decoded, peak
from fedloom.core.errors import CodecError, require
from fedloom.core.layout import Layout, Vector
from fedloom.core.types import Delta, Payload

__all__ = ["Nnadq"]

Words: TypeAlias = NDArray[np.uint8]

_HEAD = np.dtype([("largest", "<f4"), ("moved", "<f4"), ("levels", "<u4")])
_MOST = 2**24 - 1
"""Levels at most: float32 tells no more apart."""
_CHUNK = 1 << 16
"""Elements worked on at a time, a multiple of eight: the scratch stays in a core's cache."""
_FLOAT_MAX = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class Nnadq:
    """Uniform levels around the middle of each tensor's range, as many as one weight says.

    Attributes:
        weight: the paper's lambda: the price of a bit; a lower one gives more levels.
        bits: of an element that is not coded; 64 gives the levels of the released code, which
            quantizes float64.

    Raises:
        ConfigError: an option is out of range.
    """

    weight: float = 1e-3
    bits: int = 32

    name: ClassVar[str] = "nnadq"

    def __post_init__(self) -> None:
        require(0 < self.weight < math.inf, "weight", self.weight, "above 0 and finite")
        require(1 <= self.bits <= 64, "bits", self.bits, "1 to 64")

    def encode(self, delta: Delta, *, seed: int = 0) -> Payload:
        """Pack a delta; `seed` is not used.

        Raises:
            CodecError: a value is NaN or infinite.
        """
        peak(self.name, delta)
        heads = np.zeros(len(delta.layout.specs), dtype=_HEAD)
        parts = [b""]
        for i, tensor in enumerate(_tensors(delta.layout, delta.vector)):
            heads[i] = self._head(tensor)
            parts.append(_packed(tensor, *heads[i].item()))
        parts[0] = heads.tobytes()
        return write_frame(self.name, delta.layout, b"".join(parts))

    def decode(self, payload: Payload, layout: Layout) -> Delta:
        """Unpack.

        Raises:
            CodecError: the frame is truncated, corrupt or of another layout.
        """
        body = read_frame(payload, self.name, layout)
        count = len(layout.specs)
        if len(body) < count * _HEAD.itemsize:
            raise CodecError(f"nnadq: {len(body)} bytes; {count * _HEAD.itemsize} come first")
        heads = _checked(np.frombuffer(body, _HEAD, count))
        shapes = [_shape(s.size, h["levels"]) for s, h in zip(layout, heads, strict=True)]
        expected = heads.nbytes + sum(map(math.prod, shapes))
        if len(body) != expected:
            raise CodecError(f"nnadq: a body of {len(body)} bytes; expected {expected}")
        vector, at = np.empty(layout.size, dtype=np.float32), heads.nbytes
        for i, tensor in enumerate(_tensors(layout, vector)):
            size = math.prod(shapes[i])
            _unpack(np.frombuffer(body, np.uint8, size, at).reshape(shapes[i]), heads[i], tensor)
            at += size
        return decoded(self.name, layout, vector)

    def error_bound(self, delta: Delta) -> float:
        """``m / (2 q)`` of the tensor where that is most, and float32's rounding."""
        peak(self.name, delta)
        found = 0.0
        for tensor in _tensors(delta.layout, delta.vector):
            largest, moved, levels = self._head(tensor)
            step = largest / (2 * levels) if levels else 0.0
            found = max(found, step + (largest + abs(moved)) * 2.0**-23 + 2.0**-149)
        return found

    def _head(self, tensor: Vector) -> tuple[float, float, int]:
        """The largest magnitude around the middle of the range, minus the middle, and levels.

        The middle is that of the range whatever the signs are; the released code doubles the
        distance from zero of a tensor without positive elements.
        """
        if not tensor.size:
            return 0.0, 0.0, 0
        low, high = float(tensor.min()), float(tensor.max())
        moved = float(np.float32(-(low + high) / 2))
        largest = float(np.float32(max(high + moved, -low - moved)))
        best = math.sqrt(largest * self.bits * math.log(4) / self.weight)
        return largest, moved, min(max(1, int(best)), _MOST) if largest else 0


def _tensors(layout: Layout, vector: Vector) -> Iterator[Vector]:
    """The flat tensors of a vector, in order."""
    return (vector[layout.span(spec.name)] for spec in layout)


def _shape(size: int, levels: int) -> tuple[int, int]:
    """Signs and bits of levels, and the bytes that each takes for so many elements."""
    planes = 1 + int(levels).bit_length() if levels else 0
    return planes, -(-size // 8)


def _checked(heads: NDArray[np.void]) -> NDArray[np.void]:
    """The heads of a frame, as `encode` writes them.

    Raises:
        CodecError: they are not.
    """
    largest, levels = heads["largest"], heads["levels"]
    if not (np.isfinite(largest).all() and np.isfinite(heads["moved"]).all()):
        raise CodecError("nnadq: a range is not finite", code="not-finite")
    if (largest < 0).any() or (levels > _MOST).any() or ((levels == 0) != (largest == 0)).any():
        raise CodecError(f"nnadq: levels or a range that none has; 1 to {_MOST} levels")
    return heads


def _packed(tensor: Vector, largest: float, moved: float, levels: int) -> bytes:
    """Signs and levels of a tensor, a plane of bits after the other."""
    planes = np.empty(_shape(tensor.size, levels), dtype=np.uint8)
    narrow = np.min_scalar_type(levels)
    for start in range(0, tensor.size if levels else 0, _CHUNK):
        around = tensor[start : start + _CHUNK].astype(np.float64) + moved
        here = planes[:, start // 8 : (start + around.size + 7) // 8]
        here[0] = np.packbits(around < 0, bitorder="little")
        steps = np.rint(np.abs(around, out=around) * (levels / largest))
        found = np.minimum(steps, levels).astype(narrow)
        for i in range(1, len(planes)):
            here[i] = np.packbits(found & 1, bitorder="little")
            found >>= 1
    return planes.tobytes()


def _unpack(planes: Words, head: np.void, tensor: Vector) -> None:
    """Fill a tensor with what `_packed` wrote.

    Raises:
        CodecError: a level is above the highest.
    """
    largest, moved, levels = head.item()
    if not levels:
        tensor[:] = -moved
    narrow = np.min_scalar_type(levels)
    for start in range(0, tensor.size if levels else 0, _CHUNK):
        out = tensor[start : start + _CHUNK]
        here = planes[:, start // 8 : (start + out.size + 7) // 8]
        bits = np.unpackbits(here, axis=1, count=out.size, bitorder="little")
        found = bits[1].astype(narrow)
        for i in range(2, len(planes)):
            found |= bits[i].astype(narrow) << narrow.type(i - 1)
        if found.max() > levels:
            raise CodecError(f"nnadq: a level of {found.max()}; expected 0 to {levels}")
        values = found * (largest / levels)
        np.negative(values, out=values, where=bits[0].view(bool))
        np.clip(values - moved, -_FLOAT_MAX, _FLOAT_MAX, out=values)
        out[:] = values
