"""A body of a message in pieces that are checked one by one as they arrive."""

from collections.abc import Iterator
from zlib import crc32

from fedloom.core.errors import TransferError

__all__ = ["PIECE", "Body", "pieces"]

PIECE = 1 << 20
"""Bytes of a piece at most."""


def pieces(data: bytes | memoryview, size: int = PIECE) -> Iterator[tuple[int, int, memoryview]]:
    """Cut a body up: offset, CRC-32 and bytes of each piece, in order; the pieces are no copies."""
    whole = memoryview(data)
    for offset in range(0, len(whole), size):
        part = whole[offset : offset + size]
        yield offset, crc32(part), part


class Body:
    """A body that arrives.

    Args:
        size: its bytes, as its header says; memory for them is taken at once.
    """

    def __init__(self, size: int) -> None:
        self._data = bytearray(size)
        self.arrived = 0

    @property
    def whole(self) -> bool:
        """Whether all of it is there."""
        return self.arrived == len(self._data)

    @property
    def data(self) -> memoryview:
        """Its bytes."""
        return memoryview(self._data)

    def add(self, offset: int, crc: int, data: bytes | memoryview) -> None:
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
        if crc32(data) != crc:
            raise TransferError(f"the piece at {offset} was damaged", code="chunk-crc")
        self._data[offset : offset + len(data)] = data
        self.arrived += len(data)
