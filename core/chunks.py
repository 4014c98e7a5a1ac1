"""Chunks of a split session's stream as protobuf writes them, without its copies of the data.

A `Chunk` is field 3 of both `Up` and `Down`; in it are the offset (1, varint), the sum (2, fixed64)
and the data (3, bytes), in this order, zeros left out.
"""

import struct
from typing import TypeAlias

from fedloom.core.errors import CodecError
from fedloom.core.octets import Octets, varint

__all__ = ["Chunk", "chunk_message", "read_chunk"]

Chunk: TypeAlias = tuple[int, int, memoryview]
"""Offset, sum and data."""

_OFFSET, _SUM, _BYTES = 0x08, 0x11, 0x1A
"""Tags: the number of a field times 8, and how it is packed."""


def chunk_message(offset: int, total: int, data: bytes | memoryview) -> bytes:
    """The message `Up` or `Down` that holds one chunk.

    >>> chunk_message(0, 1, b"ab").hex()
    '1a0d1101000000000000001a026162'
    """
    head = b"\x08" + varint(offset) if offset else b""
    head += b"\x11" + struct.pack("<Q", total) if total else b""
    head += b"\x1a" + varint(len(data))
    return b"".join((b"\x1a", varint(len(head) + len(data)), head, data))


def read_chunk(message: bytes) -> Chunk | None:
    """What a message holds, where that is one chunk as `chunk_message` writes it.

    Returns:
        The data lies in the message's own memory. None where it is another message, or the same
        written in another way, which protobuf allows.
    """
    octets = Octets(message, "a chunk")
    try:
        if octets.byte() != _BYTES or octets.varint() != octets.left:
            return None
        tag, offset, total = octets.byte(), 0, 0
        if tag == _OFFSET:
            offset, tag = octets.varint(), octets.byte()
        if tag == _SUM:
            (total,), tag = struct.unpack("<Q", octets.take(8)), octets.byte()
        if tag != _BYTES or octets.varint() != octets.left:
            return None
        return offset, total, octets.take(octets.left)
    except CodecError:
        return None
