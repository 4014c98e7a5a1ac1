"""Eight bits an element, with one scale for each short block.

Blockwise absmax quantization (Dettmers, Lewis, Shleifer and Zettlemoyer, "8-bit Optimizers via
Block-wise Quantization", ICLR 2022, section 2.1), with linear steps: an outlier spoils the
resolution of its own block only. Stochastic rounding makes the decoded value unbiased
(Alistarh et al., "QSGD", NIPS 2017, section 3.1).
"""

import struct
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from fedloom.codecs.frame import read_frame, write_frame
from fedloom.codecs.rounding import rounded
from fedloom.codecs.values import decoded, peak, refuse_first
from fedloom.core.errors import CodecError, require
from fedloom.core.layout import Layout, Vector
from fedloom.core.types import Delta, Payload

__all__ = ["Int8"]

_STEPS = 127
_BLOCK = struct.Struct("<I")


@dataclass(frozen=True)
class Int8:
    """One byte an element and a float32 scale a block: ``scale = absmax / 127``, ``q = x / scale``.

    Blocks run over the flat vector, whatever tensors they touch. Zero stays exactly zero.
    The body is the block's length (4 bytes), the scales, and the steps: a frame says how to read
    itself, so that client and server need not agree on the block's length.

    Attributes:
        block: elements that share a scale.
        stochastic: round up or down at random, in proportion, instead of to the nearest.
    """

    name: ClassVar[str] = "int8"

    block: int = 64
    stochastic: bool = False

    def __post_init__(self) -> None:
        require(1 <= self.block <= 2**20, "block", self.block, "in [1, 1048576]")

    def encode(self, delta: Delta, *, seed: int = 0) -> Payload:
        """Pack a delta; `seed` drives stochastic rounding.

        Raises:
            CodecError: a value is NaN or infinite, or so large that its scale overflows.
        """
        peak(self.name, delta)
        blocks = in_blocks(delta.vector, self.block)
        scales = np.abs(blocks).max(axis=1) / np.float32(_STEPS)
        with np.errstate(over="ignore"):
            overflow = np.isinf(scales * np.float32(_STEPS))
        if overflow.any():
            bad = np.repeat(overflow, self.block)[: delta.vector.size]
            refuse_first(self.name, delta.layout, bad, "is too large for an int8 block (3.4e38)")
        ratios = divide(blocks, scales).reshape(-1)
        steps = rounded(ratios, _STEPS, stochastic=self.stochastic, seed=seed, owner="codec.int8")[
            : delta.vector.size
        ]
        body = _BLOCK.pack(self.block) + scales.astype("<f4").tobytes() + steps.tobytes()
        return write_frame(self.name, delta.layout, body)

    def decode(self, payload: Payload, layout: Layout) -> Delta:
        """Unpack.

        Raises:
            CodecError: the frame is truncated, corrupt or of another layout.
        """
        body = read_frame(payload, self.name, layout)
        if len(body) < _BLOCK.size:
            raise CodecError(f"int8: a body of {len(body)} bytes; expected {_BLOCK.size} or more")
        (block,) = _BLOCK.unpack_from(body)
        if not 1 <= block <= 2**20:
            raise CodecError(f"int8: blocks of {block} elements; expected 1 to 1048576")
        count = -(-layout.size // block)
        expected = _BLOCK.size + 4 * count + layout.size
        if len(body) != expected:
            raise CodecError(f"int8: a body of {len(body)} bytes; expected {expected}")
        scales = np.frombuffer(body, "<f4", count, _BLOCK.size).astype(np.float32, copy=False)
        steps = np.frombuffer(body, np.int8, layout.size, _BLOCK.size + 4 * count)
        return _multiply(layout, scales, steps, block)

    def error_bound(self, delta: Delta) -> float:
        """Half a step of the widest block (a whole one where rounding is stochastic).

        The ``2^-15`` of a step is float32's rounding of the ratio; ``2^-143`` covers blocks whose
        scale is so small that float32 no longer divides it by 127.
        """
        share = 1.0 if self.stochastic else 0.5
        return peak(self.name, delta) / _STEPS * (share + 2.0**-15) + 2.0**-143


def in_blocks(vector: Vector, block: int) -> Vector:
    """A vector ``[P]`` as ``[blocks, block]``, padded with zeros."""
    padded = np.zeros(-(-vector.size // block) * block, dtype=np.float32)
    padded[: vector.size] = vector
    return padded.reshape(-1, block)


def divide(blocks: Vector, scales: Vector) -> Vector:
    """``blocks / scales`` (``[blocks, block]`` by ``[blocks]``), zero where the scale is zero."""
    empty = scales == 0
    divisors: Vector = np.where(empty, np.float32(1), scales)
    ratios = blocks / divisors[:, None]
    ratios[empty] = 0
    return ratios


def _multiply(layout: Layout, scales: Vector, steps: NDArray[np.int8], block: int) -> Delta:
    """The delta whose elements are steps times the scale of their block."""
    if scales.size and not (np.isfinite(scales).all() and (scales >= 0).all()):
        raise CodecError("int8: a scale is negative or not finite")
    if steps.size and steps.min() < -_STEPS:
        raise CodecError(f"int8: a step of -128; expected -{_STEPS} to {_STEPS}")
    vector = np.repeat(scales, block)[: layout.size]
    with np.errstate(over="ignore"):
        np.multiply(vector, steps, out=vector)
    return decoded("int8", layout, vector)
