"""A few bits an element: short blocks with a scale each, and the steps entropy coded.

Blockwise absmax quantization (Dettmers, Lewis, Shleifer and Zettlemoyer, "8-bit Optimizers via
Block-wise Quantization", ICLR 2022, section 2.1) with linear steps and an odd number of levels, so
that zero stays zero. Within a block few elements are near the largest: a Huffman code gives what
that is worth. As many steps share a byte as it holds, so that a code word of one bit is no limit.

| bytes | what                                                                              |
|-------|-----------------------------------------------------------------------------------|
| 4     | elements of a block                                                               |
| 1     | L, the steps to each side of zero                                                 |
| ...   | DEFLATE (RFC 1951), Huffman codes only: eight bits of exponent for each block,    |
|       | three of mantissa for each block, and steps + L in base 2 L + 1                   |

Machines with the same DEFLATE library write the same frame; what a frame says is the same anyway.
"""

import struct
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fedloom.codecs.frame import read_frame, write_frame
from fedloom.codecs.quantized import divide, in_blocks
from fedloom.codecs.rounding import rounded
from fedloom.codecs.values import decoded, peak, refuse_first
from fedloom.core.errors import CodecError, require
from fedloom.core.layout import Layout, Vector
from fedloom.core.types import Delta, Payload

__all__ = ["Blockwise"]

Octets: TypeAlias = NDArray[np.uint8]

_HEAD = struct.Struct("<IB")
_MANTISSA = np.uint32(3)
_LOW = np.uint32(2**3 - 1)
_DROPPED = np.uint32(23) - _MANTISSA
"""Bits of a float32 that a scale does without."""


@dataclass(frozen=True)
class Blockwise:
    """Blocks of 64 with ``2 L + 1`` levels, fewer bits for frequent ones.

    Blocks run over the flat vector, whatever tensors they touch. A scale is the block's largest
    magnitude over L, rounded up to four significant bits: it costs 0.06 bits an element.

    Attributes:
        bits: of an element before entropy coding, not always a whole number: L is
            ``(2^bits - 1) / 2``, rounded down.
        block: elements that share a scale.
        stochastic: round up or down at random, in proportion, instead of to the nearest.

    Raises:
        ConfigError: an option is out of range.
    """

    bits: float = 4.0
    block: int = 64
    stochastic: bool = False

    name: ClassVar[str] = "blockwise"

    def __post_init__(self) -> None:
        require(2 <= self.bits <= 8, "bits", self.bits, "2 to 8")
        require(1 <= self.block <= 2**20, "block", self.block, "in [1, 1048576]")

    @property
    def most(self) -> int:
        """L: steps to each side of zero."""
        return int((2**self.bits - 1) / 2)

    def encode(self, delta: Delta, *, seed: int = 0) -> Payload:
        """Pack a delta; `seed` drives stochastic rounding.

        Raises:
            CodecError: a value is NaN or infinite, or so large that its scale overflows.
        """
        peak(self.name, delta)
        most, blocks = self.most, in_blocks(delta.vector, self.block)
        codes = _codes(np.abs(blocks).max(axis=1) / np.float32(most))
        scales = _scales(codes)
        with np.errstate(over="ignore"):
            overflow = ~np.isfinite(scales * np.float32(most))
        if overflow.any():
            bad = np.repeat(overflow, self.block)[: delta.vector.size]
            refuse_first(self.name, delta.layout, bad, "is too large for a block (1.7e38)")
        ratios = divide(blocks, scales).reshape(-1)[: delta.vector.size]
        steps = rounded(
            ratios, most, stochastic=self.stochastic, seed=seed, owner="codec.blockwise"
        )
        planes = (codes >> _MANTISSA, codes & _LOW, _together(steps, most))
        octets = [plane.astype(np.uint8).tobytes() for plane in planes]
        body = _HEAD.pack(self.block, most) + _deflated(octets)
        return write_frame(self.name, delta.layout, body)

    def decode(self, payload: Payload, layout: Layout) -> Delta:
        """Unpack.

        Raises:
            CodecError: the frame is truncated, corrupt or of another layout.
        """
        body = read_frame(payload, self.name, layout)
        if len(body) < _HEAD.size:
            raise CodecError(f"blockwise: a body of {len(body)} bytes; {_HEAD.size} or more")
        block, most = _HEAD.unpack_from(body)
        if not (1 <= block <= 2**20 and 1 <= most <= 127):
            text = f"blocks of {block} elements, {most} steps; 1 to 1048576, 1 to 127"
            raise CodecError(f"blockwise: {text}")
        block = min(block, max(layout.size, 1))  # no frame decides how much memory is taken
        count = -(-layout.size // block)
        found = _inflated(body[_HEAD.size :], 2 * count + -(-layout.size // _share(most)))
        high, low = found[:count].astype(np.uint32), found[count : 2 * count]
        if count and low.max() > _LOW:
            raise CodecError(f"blockwise: a mantissa of {low.max()}; {_LOW} or less")
        vector = _apart(found[2 * count :], most, layout.size)
        blocks = np.repeat(_scales(high << _MANTISSA | low), block)[: layout.size]
        with np.errstate(over="ignore", invalid="ignore"):
            np.multiply(vector, blocks, out=vector)
        return decoded(self.name, layout, vector)

    def error_bound(self, delta: Delta) -> float:
        """Half a step of the widest block (a whole one where rounding is stochastic).

        A step is at most an eighth wider than the largest magnitude over L, or ``2^-129`` where
        that is more. The ``2^-15`` of it is float32's rounding of the ratio.
        """
        share = 1.0 if self.stochastic else 0.5
        step = peak(self.name, delta) / self.most * (1 + 1 / 8) + 2.0**-129
        return step * (share + 2.0**-15) + 2.0**-149


def _codes(scales: Vector) -> NDArray[np.uint32]:
    """Scales, rounded up to what is left of them: exponent and the first bits of the mantissa."""
    bits = scales.view(np.uint32)
    return (bits + ((np.uint32(1) << _DROPPED) - np.uint32(1))) >> _DROPPED


def _scales(codes: NDArray[np.uint32]) -> Vector:
    return (codes << _DROPPED).view(np.float32)


def _share(most: int) -> int:
    """How many steps of ``2 most + 1`` levels one byte holds."""
    share = 1
    while (2 * most + 1) ** (share + 1) <= 256:
        share += 1
    return share


def _together(steps: NDArray[np.int8], most: int) -> Octets:
    """Steps (``[P]``) as digits of bytes, the first the highest; the last byte filled up."""
    share = _share(most)
    digits = np.full(-(-steps.size // share) * share, most, dtype=np.uint8)
    digits[: steps.size] = steps.view(np.uint8) + np.uint8(most)
    found = digits[::share].copy()
    for i in range(1, share):
        found *= np.uint8(2 * most + 1)
        found += digits[i::share]
    return found


def _apart(octets: Octets, most: int, size: int) -> Vector:
    """What `_together` put together, as float32 ``[size]``.

    Raises:
        CodecError: a byte is none that it writes.
    """
    share, base = _share(most), 2 * most + 1
    if octets.size and octets.max() >= base**share:
        raise CodecError(f"blockwise: a byte of {octets.max()}; below {base**share}")
    powers = base ** np.arange(share - 1, -1, -1)
    table = (np.arange(base**share)[:, None] // powers % base - most).astype(np.float32)
    return np.ascontiguousarray(table[octets].reshape(-1)[:size])


def _deflated(planes: Iterable[bytes]) -> bytes:
    """Each plane with Huffman codes of its own."""
    packer = zlib.compressobj(6, zlib.DEFLATED, -15, 9, zlib.Z_HUFFMAN_ONLY)
    parts = []
    for plane in planes:
        parts += [packer.compress(plane), packer.flush(zlib.Z_SYNC_FLUSH)]
    return b"".join((*parts, packer.flush()))


def _inflated(body: memoryview, expected: int) -> Octets:
    """So many bytes, no more and no fewer.

    Raises:
        CodecError: they are not there.
    """
    reader = zlib.decompressobj(-15)
    try:
        found = reader.decompress(body, expected + 1)
    except zlib.error as error:
        raise CodecError(f"blockwise: the entropy code is broken: {error}") from error
    if len(found) != expected or not reader.eof or reader.unused_data:
        raise CodecError(f"blockwise: {len(found)} bytes in the entropy code; {expected} expected")
    return np.frombuffer(found, np.uint8)
