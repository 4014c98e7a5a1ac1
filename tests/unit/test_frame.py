import struct
import zlib
from dataclasses import replace

import pytest

from fedloom.codecs.frame import OVERHEAD, read_frame, write_frame
from fedloom.core.errors import CodecError
from fedloom.core.layout import Layout, TensorSpec
from fedloom.core.types import Payload

LAYOUT = Layout((TensorSpec("a", (2,)),))


def resealed(frame: bytes) -> Payload:
    """A payload whose checksum fits again after a change."""
    return Payload("x", frame[:-4] + struct.pack("<I", zlib.crc32(frame[:-4])))


def test_a_body_comes_back_and_every_byte_is_counted() -> None:
    payload = write_frame("x", LAYOUT, b"body")
    assert bytes(read_frame(payload, "x", LAYOUT)) == b"body"
    assert payload.nbytes == len(payload.frame) == OVERHEAD + 4 == 32


def test_the_header_is_what_the_table_says() -> None:
    frame = write_frame("x", LAYOUT, b"").frame
    assert frame[:4] == b"FLD\x01"
    assert frame[8:16].hex() == LAYOUT.digest[:16]
    assert frame[16:24] == b"\x02" + bytes(7)  # two elements


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f[:27], "27 bytes; a frame has 28 or more"),
        (lambda f: b"ZIP" + f[3:], "not a frame we read"),
        (lambda f: f[:3] + b"\x02" + f[4:], "not a frame we read"),
        (lambda f: f[:-5] + f[-4:], "checksum"),
        (lambda f: f[:24] + b"B" + f[25:], "checksum"),
    ],
)
def test_a_damaged_frame_is_refused(change: object, message: str) -> None:
    assert callable(change)
    payload = write_frame("x", LAYOUT, b"body")
    with pytest.raises(CodecError, match=message):
        read_frame(replace(payload, frame=change(payload.frame)), "x", LAYOUT)


def test_a_frame_of_another_codec_layout_or_count_is_refused() -> None:
    payload = write_frame("x", LAYOUT, b"")
    with pytest.raises(CodecError, match="the payload is of codec 'x'"):
        read_frame(payload, "y", LAYOUT)
    with pytest.raises(CodecError, match="written by another codec"):
        read_frame(replace(write_frame("y", LAYOUT, b""), codec="x"), "x", LAYOUT)
    with pytest.raises(CodecError, match=r"a frame of 2 elements of layout .* expected 3 of"):
        read_frame(payload, "x", Layout((TensorSpec("a", (3,)),)))
    many = payload.frame[:16] + struct.pack("<Q", 2**63) + payload.frame[24:]
    with pytest.raises(CodecError, match=f"a frame of {2**63} elements"):
        read_frame(resealed(many), "x", LAYOUT)
