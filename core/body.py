"""A body of a message in pieces that are checked one by one as they arrive.

A piece is checked by the sum of its 64-bit words, at a tenth of the price of a CRC-32: TCP and TLS
check what arrives, so this finds what went wrong in memory, or in a program.
"""

from collections.abc import Iterator

import numpy as np

from fedloom.core.errors import TransferError

__all__ = ["PIECE", "Body", "pieces", "word_sum"]

PIECE = 1 << 20
"""Bytes of a piece at most."""


def pieces(data: bytes | memoryview, size: int = PIECE) -> Iterator[tuple[int, int, memoryview]]:
    """Cut a body up: offset, sum and bytes of each piece, in order; the pieces are no copies."""
    whole = memoryview(data)
    for offset in range(0, len(whole), size):
        part = whole[offset : offset + size]
        yield offset, word_sum(part), part


def word_sum(data: bytes | memoryview) -> int:
    """Bytes as little-endian 64-bit words, the last filled up with zeros; their sum modulo 2^64.

    >>> word_sum(bytes([1, 0, 0, 0, 0, 0, 0, 0, 2]))
    3
    """
    words = len(data) // 8
    whole = int(np.frombuffer(data, "<u8", words).sum(dtype=np.uint64))
    return (whole + int.from_bytes(data[8 * words :], "little")) % 2**64


class Body:
    """A body that arrives.

    Args:
        size: its bytes, as its header says; memory for them is taken at once.
    """

    def __init__(self, size: int) -> None:
        self._data = np.empty(size, np.uint8).data
        self.arrived = 0

    @property
    def whole(self) -> bool:
        """Whether all of it is there."""
        return self.arrived == len(self._data)

    @property
    def data(self) -> memoryview:
        """Its bytes."""
        return self._data

    def add(self, offset: int, total: int, data: bytes | memoryview) -> None:
        """The next piece.

        Raises:
            TransferError: it is empty or too large, belongs elsewhere, or was damaged.
        """
        size = len(self._data)
        if not 0 < len(data) <= min(PIECE, size - self.arrived):
            text = f"a piece of {len(data)} bytes; {size - self.arrived} of {size} are missing"
            raise TransferError(f"{text}, at most {PIECE} at once", code="chunk-order")
        if offset != self.arrived:
            text = f"a piece at {offset}; the next one begins at {self.arrived}"
            raise TransferError(text, code="chunk-order")
        if word_sum(data) != total:
            raise TransferError(f"the piece at {offset} was damaged", code="chunk-crc")
        self._data[offset : offset + len(data)] = data
        self.arrived += len(data)
