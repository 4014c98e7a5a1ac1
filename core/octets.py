"""Numbers as few bytes, and bytes as numbers, never more of them than there are bytes for."""

import struct
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from fedloom.core.errors import CodecError

__all__ = ["Octets", "integers", "varint", "varints"]

_WIDTHS = (1, 8, 16, 32, 64)
"""Bits of a packed integer; with one, it is a sign."""


def varint(number: int) -> bytes:
    """A number of 0 or more, seven bits a byte, the lowest first; the highest bit says "more".

    >>> varint(300).hex()
    'ac02'
    """
    found = bytearray()
    while number > 127:
        found.append(number & 127 | 128)
        number >>= 7
    found.append(number)
    return bytes(found)


def varints(numbers: Iterable[int]) -> bytes:
    """Several, one after the other."""
    return b"".join(map(varint, numbers))


def integers(values: NDArray[np.int64]) -> bytes:
    """How many bits each takes (one byte), and the integers in as many: 1, 8, 16, 32 or 64."""
    if values.size and np.isin(values, (-1, 1)).all():
        return b"\x01" + np.packbits(values > 0, bitorder="little").tobytes()
    low, high = int(values.min(initial=0)), int(values.max(initial=0))
    bits = next(b for b in _WIDTHS[1:] if -(2 ** (b - 1)) <= low and high < 2 ** (b - 1))
    return bytes([bits]) + values.astype(f"<i{bits // 8}").tobytes()


class Octets:
    """Bytes that are read from front to back; what is not there raises `CodecError`.

    Args:
        data: the bytes.
        what: they are, for messages.
    """

    def __init__(self, data: bytes | memoryview, what: str) -> None:
        self._data, self._at, self.what = memoryview(data), 0, what

    @property
    def left(self) -> int:
        """Bytes that are not read yet."""
        return len(self._data) - self._at

    def take(self, count: int) -> memoryview:
        """The next bytes."""
        if not 0 <= count <= self.left:
            raise CodecError(f"{self.what}: {count} bytes more are said to come, {self.left} do")
        self._at += count
        return self._data[self._at - count : self._at]

    def byte(self) -> int:
        """The next byte."""
        return self.take(1)[0]

    def varint(self) -> int:
        """A number that `varint` wrote, below 2^63."""
        number = shift = 0
        while (byte := self.byte()) & 128:
            number |= (byte & 127) << shift
            shift += 7
            if shift > 56:
                raise CodecError(f"{self.what}: a number of more than 63 bits")
        return number | byte << shift

    def count(self, size: int = 1) -> int:
        """How many things of `size` bytes or more follow: as many as there are bytes for."""
        number = self.varint()
        if number * size > self.left:
            text = f"{number} things of {size} bytes are said to come in {self.left}"
            raise CodecError(f"{self.what}: {text}")
        return number

    def varints(self, count: int) -> list[int]:
        """Several numbers."""
        return [self.varint() for _ in range(count)]

    def doubles(self, count: int) -> tuple[float, ...]:
        """Finite numbers of 64 bits."""
        found = struct.unpack(f"<{count}d", self.take(8 * count))
        if not np.isfinite(found).all():
            raise CodecError(f"{self.what}: a number is not finite", code="not-finite")
        return found

    def numbers(self, kind: str, count: int) -> NDArray[np.generic]:
        """An array of a little-endian type such as ``<u2``, as this machine has it."""
        dtype = np.dtype(kind)
        found = np.frombuffer(self.take(count * dtype.itemsize), dtype)
        return found.astype(dtype.newbyteorder("="))

    def integers(self, count: int) -> NDArray[np.int64]:
        """What `integers` wrote."""
        bits = self.byte()
        if bits not in _WIDTHS:
            raise CodecError(f"{self.what}: integers of {bits} bits")
        if bits > 1:
            return self.numbers(f"<i{bits // 8}", count).astype(np.int64)
        packed = np.frombuffer(self.take(-(-count // 8)), np.uint8)
        return np.unpackbits(packed, count=count, bitorder="little").astype(np.int64) * 2 - 1

    def end(self) -> None:
        """Raise unless all is read."""
        if self.left:
            raise CodecError(f"{self.what}: {self.left} bytes too many")
