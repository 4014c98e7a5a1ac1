import hashlib
import zlib

import numpy as np
import pytest

from fedloom.codecs.dense import BFloat16, Float32
from fedloom.core.errors import CodecError
from fedloom.core.layout import Layout, TensorSpec
from fedloom.core.types import Delta, Payload
from fedloom.load_payload import prepared
from fedloom.server.wire import MAX_CHUNK, RawChunk, read_part

LAYOUT = Layout((TensorSpec("a", (100, 700)), TensorSpec("b", (3,))))
MODEL = Delta(LAYOUT, np.ones(LAYOUT.size, np.float32))


@pytest.mark.parametrize("down", [Float32(), BFloat16()], ids=str)
def test_the_payload_is_an_update_of_the_models_layout(down: Float32 | BFloat16) -> None:
    payload = prepared(down.encode(MODEL).frame)
    data = b"".join(chunk_of(part, payload.size).data for part in payload.parts)
    # 28 bytes of frame and 4 for each of 70,003 elements: two chunks.
    assert (len(data), len(payload.parts)) == (payload.size, 2) == (280_040, 2)
    assert hashlib.sha256(data).hexdigest() == payload.sha256
    delta = Float32().decode(Payload(payload.codec, data), LAYOUT)
    assert delta.layout == LAYOUT
    assert 0.9e-4 < delta.vector.std() < 1.1e-4


def chunk_of(part: bytes, size: int) -> RawChunk:
    chunk = read_part(part)
    assert isinstance(chunk, RawChunk)
    assert chunk.crc32 == zlib.crc32(chunk.data)
    assert len(chunk.data) == min(MAX_CHUNK, size - chunk.offset)
    return chunk


def test_what_is_no_frame_is_refused() -> None:
    with pytest.raises(CodecError, match="the model is 27 bytes"):
        prepared(bytes(27))
