"""An update that a server can fold, made from the frame of its model without knowing the model."""

import hashlib
import struct
import zlib
from dataclasses import dataclass

import numpy as np

from fedloom.codecs.dense import Float32
from fedloom.codecs.frame import OVERHEAD
from fedloom.core.errors import CodecError
from fedloom.core.layout import Layout
from fedloom.core.types import Delta
from fedloom.protos import federation_pb2 as wire
from fedloom.server.wire import MAX_CHUNK

__all__ = ["Prepared", "prepared"]

_CRC = struct.Struct("<I")
_HEAD = OVERHEAD - _CRC.size
_CODEC, _COUNT = slice(4, 8), slice(16, 24)
_SCALE = 1e-4


@dataclass(frozen=True)
class Prepared:
    """A payload, ready to be sent any number of times.

    Attributes:
        codec: name of the codec that wrote it.
        size: bytes.
        sha256: hex.
        parts: its chunks as serialized `UploadPart`, each but the last of `MAX_CHUNK` bytes.
    """

    codec: str
    size: int
    sha256: str
    parts: tuple[bytes, ...]


def prepared(frame: bytes, *, seed: int = 0) -> Prepared:
    """A float32 frame of small normal numbers, for the layout of a model's frame.

    The header says which layout that is and how many elements it has; names are not needed.

    Raises:
        CodecError: `frame` is too short to be a frame.
    """
    if len(frame) < OVERHEAD:
        raise CodecError(f"the model is {len(frame)} bytes; a frame has {OVERHEAD} or more")
    head = bytearray(frame[:_HEAD])
    head[_CODEC] = _empty()[_CODEC]
    count = int.from_bytes(head[_COUNT], "little")
    numbers = np.random.default_rng(seed).standard_normal(count, dtype=np.float32) * _SCALE
    body = bytes(head) + numbers.astype("<f4").tobytes()
    payload = body + _CRC.pack(zlib.crc32(body))
    parts = (_part(payload, at) for at in range(0, len(payload), MAX_CHUNK))
    digest = hashlib.sha256(payload).hexdigest()
    return Prepared(Float32.name, len(payload), digest, tuple(parts))


def _empty() -> bytes:
    """A frame of the codec in which only its own mark matters."""
    return Float32().encode(Delta(Layout(()), np.zeros(0, np.float32))).frame


def _part(payload: bytes, at: int) -> bytes:
    data = payload[at : at + MAX_CHUNK]
    chunk = wire.Chunk(offset=at, crc32=zlib.crc32(data), data=data)
    message: bytes = wire.UploadPart(chunk=chunk).SerializeToString()
    return message
