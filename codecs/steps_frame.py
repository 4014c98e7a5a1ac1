"""The bytes of what leads from one version of a model to another.

| bytes | what                                                                           |
|-------|--------------------------------------------------------------------------------|
| 4     | ``FLA1``                                                                       |
| 1     | 1: a model comes first; 2: the model before the last frame is the one to keep  |
| ...   | the model's frame, where there is one: its length (varint), its bytes          |
| ...   | tensors as they are in the end, and their numbers (float32)                    |
| ...   | with 2: tensors as they are before the last frame, and their numbers           |
| ...   | how many advances (varint), the length of each (varint), their bytes           |
| 4     | CRC-32 of everything before it                                                 |

"""

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fedloom.core.errors import CodecError
from fedloom.core.layout import Layout
from fedloom.core.octets import Octets, varint, varints
from fedloom.core.tensor_sets import read_tensors, tensors
from fedloom.core.types import Delta

__all__ = ["MAGIC", "Sent", "read_sent", "write_sent"]

MAGIC = b"FLA1"
"""What a frame begins with."""
_MODEL, _BEFORE_LAST = 1, 2
_CRC = struct.Struct("<I")


@dataclass(frozen=True)
class Sent:
    """What leads from one version to another.

    Attributes:
        model: the frame of the model that it starts from; empty for none.
        given: tensors as they are in the end.
        before_last: tensors as they are before the last of the frames, where that is to be kept.
        frames: advances.
    """

    model: bytes
    given: Delta
    before_last: Delta | None
    frames: Sequence[bytes | memoryview]


def write_sent(sent: Sent, layout: Layout) -> bytes:
    """The frame, for a model of this layout."""
    before, frames = sent.before_last, sent.frames
    flags = (_MODEL if sent.model else 0) | (0 if before is None else _BEFORE_LAST)
    body = b"".join(
        (
            *(MAGIC, bytes([flags])),
            varint(len(sent.model)) + sent.model if sent.model else b"",
            *(_given(part, layout) for part in (sent.given, before) if part is not None),
            *(varint(len(frames)), varints(map(len, frames)), *frames),
        )
    )
    return body + _CRC.pack(zlib.crc32(body))


def read_sent(frame: bytes, layout: Layout) -> Sent:
    """What `write_sent` wrote.

    Raises:
        CodecError: the frame is cut or damaged, or a number is not finite (``not-finite``).
    """
    body = frame[: -_CRC.size]
    if len(frame) < len(MAGIC) + 2 + _CRC.size:
        raise CodecError(f"downlink: {len(frame)} bytes: no whole frame")
    if zlib.crc32(body) != _CRC.unpack(frame[-_CRC.size :])[0]:
        raise CodecError("downlink: the checksum of the frame is wrong; it was cut or changed")
    octets = Octets(memoryview(body)[len(MAGIC) :], "downlink")
    flags = octets.byte()
    model = bytes(octets.take(octets.count())) if flags & _MODEL else b""
    given = _read_given(octets, layout)
    before_last = _read_given(octets, layout) if flags & _BEFORE_LAST else None
    lengths = octets.varints(octets.count())
    frames = [octets.take(length) for length in lengths]
    octets.end()
    return Sent(model, given, before_last, frames)


def _given(part: Delta, layout: Layout) -> bytes:
    return tensors(part.layout, layout) + part.vector.astype("<f4").tobytes()


def _read_given(octets: Octets, layout: Layout) -> Delta:
    part = read_tensors(octets, layout)
    values = octets.numbers("<f4", part.size).astype(np.float32, copy=False)
    if not np.isfinite(values).all():
        raise CodecError("downlink: a number is not finite", code="not-finite")
    return Delta(part, values)
