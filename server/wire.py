"""Chunks as bytes of the wire, read and written without copying what they carry.

A message of 256 KiB that goes through protobuf is copied twice more than it needs to be. The shape
that every client writes is read here by hand; whatever else protobuf would accept is left to it,
so that both always agree.

| bytes          | what                                          |
|----------------|-----------------------------------------------|
| ``12`` varint  | a chunk, and its length (`UploadPart` only)   |
| ``08`` varint  | offset; left out where it is 0                |
| ``15`` 4 bytes | CRC-32, little-endian; left out where it is 0 |
| ``1a`` varint  | data, and its length                          |
"""

import struct
from dataclasses import dataclass
from typing import TypeAlias

from google.protobuf.message import DecodeError

from fedloom.core.errors import TransferError
from fedloom.core.octets import varint
from fedloom.protos import federation_pb2

__all__ = ["MAX_CHUNK", "Buffer", "RawChunk", "read_part", "write_chunk"]

MAX_CHUNK = 256 * 1024
"""Bytes of data that one chunk carries at most."""

Buffer: TypeAlias = bytes | bytearray | memoryview

_CHUNK, _OFFSET, _CRC, _DATA = 0x12, 0x08, 0x15, 0x1A
_LENGTH_BYTES, _OFFSET_BYTES = 4, 9
_FIXED = struct.Struct("<I")


@dataclass(frozen=True)
class RawChunk:
    """A chunk of a payload.

    Attributes:
        offset: of its first byte in the payload.
        crc32: of the data, as the sender says.
        data: a view into the message it came in.
    """

    offset: int
    crc32: int
    data: memoryview


def read_part(message: bytes) -> federation_pb2.UploadHeader | RawChunk:
    """Read an `UploadPart`; what it says is not checked, only that it can be read.

    Raises:
        TransferError: no `UploadPart`, or one with nothing in it (``protocol``).
    """
    chunk = _plain_chunk(message)
    if chunk is not None:
        return chunk
    try:
        part = federation_pb2.UploadPart.FromString(message)
    except DecodeError as error:
        text = f"a message of {len(message)} bytes that is no part of an upload"
        raise TransferError(text, code="protocol") from error
    if part.HasField("header"):
        header: federation_pb2.UploadHeader = part.header
        return header
    if part.HasField("chunk"):
        return RawChunk(part.chunk.offset, part.chunk.crc32, memoryview(part.chunk.data))
    raise TransferError("a part of an upload with neither header nor chunk", code="protocol")


def write_chunk(offset: int, crc32: int, data: Buffer) -> bytes:
    """The `Chunk` of a download, byte for byte as protobuf writes it, with one copy of the data."""
    head = bytearray()
    if offset:
        head.append(_OFFSET)
        head += varint(offset)
    if crc32:
        head.append(_CRC)
        head += _FIXED.pack(crc32)
    if len(data):
        head.append(_DATA)
        head += varint(len(data))
    return b"".join((head, data))


def _plain_chunk(message: bytes) -> RawChunk | None:
    """The chunk of a message of the usual shape: each field at most once, in order, no more."""
    try:
        if message[0] != _CHUNK:
            return None
        length, at = _read_varint(message, 1, _LENGTH_BYTES)
        if at + length != len(message):
            return None
        offset = crc = 0
        if message[at] == _OFFSET:
            offset, at = _read_varint(message, at + 1, _OFFSET_BYTES)
        if message[at] == _CRC:
            crc, at = _FIXED.unpack_from(message, at + 1)[0], at + 5
        if message[at] != _DATA:
            return None
        length, at = _read_varint(message, at + 1, _LENGTH_BYTES)
    except (IndexError, struct.error):
        return None
    if at + length != len(message):
        return None
    return RawChunk(offset, crc, memoryview(message)[at:])


def _read_varint(message: bytes, at: int, most: int) -> tuple[int, int]:
    """A number of at most `most` bytes, and where it ends; `IndexError` where it is longer."""
    value = shift = 0
    for place in range(at, at + most):
        byte = message[place]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place + 1
        shift += 7
    raise IndexError(at)
