"""The bytes of a payload: a short header, the codec's body, and a checksum.

| bytes | what                                                                        |
|-------|-----------------------------------------------------------------------------|
| 3     | ``FLD``                                                                     |
| 1     | version of this format                                                      |
| 4     | who wrote it: BLAKE2b of the codec's name                                   |
| 8     | start of the layout's digest: names and shapes of the tensors               |
| 8     | number of elements, little-endian                                           |
| n     | the codec's body                                                            |
| 4     | CRC-32 of everything before it, little-endian                               |

Nothing in a frame decides how much memory is taken: the layout is known to whoever decodes.
"""

import hashlib
import struct
import zlib

from fedloom.core.errors import CodecError
from fedloom.core.layout import Layout
from fedloom.core.types import Payload

__all__ = ["OVERHEAD", "read_frame", "write_frame"]

_MAGIC, _VERSION = b"FLD", 1
_HEADER = struct.Struct("<3sB4s8sQ")
_CRC = struct.Struct("<I")
OVERHEAD = _HEADER.size + _CRC.size
"""Bytes of a frame that are not its body."""


def write_frame(codec: str, layout: Layout, body: bytes) -> Payload:
    """The payload in which the codec named `codec` sends `body` for the tensors of `layout`."""
    head = _HEADER.pack(_MAGIC, _VERSION, _codec_id(codec), _layout_id(layout), layout.size)
    crc = zlib.crc32(body, zlib.crc32(head))
    return Payload(codec, b"".join((head, body, _CRC.pack(crc))))


def read_frame(payload: Payload, codec: str, layout: Layout) -> memoryview:
    """The body of a payload, once everything around it is as `write_frame` writes it.

    Raises:
        CodecError: the frame is truncated, corrupt, of another version, codec or layout.
    """
    frame = memoryview(payload.frame)
    if payload.codec != codec:
        raise CodecError(f"{codec}: the payload is of codec {payload.codec!r}")
    if len(frame) < OVERHEAD:
        raise CodecError(f"{codec}: {len(frame)} bytes; a frame has {OVERHEAD} or more")
    magic, version, writer, tensors, count = _HEADER.unpack_from(frame)
    if magic != _MAGIC or version != _VERSION:
        raise CodecError(f"{codec}: starts with {magic + bytes([version])!r}; not a frame we read")
    if zlib.crc32(frame[: -_CRC.size]) != _CRC.unpack(frame[-_CRC.size :])[0]:
        raise CodecError(f"{codec}: the checksum of the frame is wrong; it was cut or changed")
    if writer != _codec_id(codec):
        raise CodecError(f"{codec}: the frame was written by another codec")
    if tensors != _layout_id(layout) or count != layout.size:
        text = f"a frame of {count} elements of layout {tensors.hex()}"
        expected = f"expected {layout.size} of {layout.digest[:16]}"
        raise CodecError(f"{codec}: {text}; {expected}", code="layout")
    return frame[_HEADER.size : -_CRC.size]


def _codec_id(name: str) -> bytes:
    return hashlib.blake2b(name.encode(), digest_size=4, person=b"fedloom/codec").digest()


def _layout_id(layout: Layout) -> bytes:
    return bytes.fromhex(layout.digest[:16])
