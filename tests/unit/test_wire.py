import zlib

import pytest

from fedloom.core.errors import TransferError
from fedloom.protos import federation_pb2 as pb
from fedloom.server.wire import MAX_CHUNK, RawChunk, read_part, write_chunk

DATA = bytes(range(256)) * 1024


def part_of(offset: int, crc32: int, data: bytes) -> bytes:
    part = pb.UploadPart(chunk=pb.Chunk(offset=offset, crc32=crc32, data=data))
    message: bytes = part.SerializeToString()
    return message


@pytest.mark.parametrize("offset", [0, 1, 127, 128, 2**31, 2**62, 2**63, 2**64 - 1])
@pytest.mark.parametrize("crc32", [0, 1, 2**32 - 1])
@pytest.mark.parametrize("data", [b"", b"x", DATA], ids=["none", "one", "most"])
def test_a_chunk_reads_as_protobuf_wrote_it(offset: int, crc32: int, data: bytes) -> None:
    part = read_part(part_of(offset, crc32, data))
    assert isinstance(part, RawChunk)
    assert (part.offset, part.crc32, bytes(part.data)) == (offset, crc32, data)


def test_the_data_are_a_view_into_the_message() -> None:
    message = part_of(7, zlib.crc32(DATA), DATA)
    part = read_part(message)
    assert isinstance(part, RawChunk)
    assert part.data.obj is message


def test_a_header_reads_as_protobuf_wrote_it() -> None:
    header = pb.UploadHeader(ticket="ab", size=2**63, sha256="cd", metrics={"loss": 0.5}, offset=9)
    assert read_part(pb.UploadPart(header=header).SerializeToString()) == header


@pytest.mark.parametrize(
    "message",
    [
        part_of(1, 2, b"abc") + b"\x18\x07",  # an unknown field after the chunk
        # Fields in another order, and a field twice: the last one counts.
        b"\x12\x07\x1a\x03abc\x08\x05",
        b"\x12\x09\x08\x01\x08\x05\x1a\x03abc",
        b"\x12\x03\x08\x85\x00",  # 5 in two bytes
    ],
    ids=["unknown", "order", "twice", "long"],
)
def test_what_nobody_writes_is_left_to_protobuf(message: bytes) -> None:
    chunk = pb.UploadPart.FromString(message).chunk
    part = read_part(message)
    assert isinstance(part, RawChunk)
    assert (part.offset, part.crc32) == (chunk.offset, chunk.crc32)
    assert bytes(part.data) == chunk.data


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (b"", "neither header nor chunk"),
        (b"\x18\x07", "neither header nor chunk"),
        (b"\x12", "no part of an upload"),
        (b"\x12\x05\x1a\x03ab", "no part of an upload"),
        (b"\x12\x05\x1a\x04abc", "no part of an upload"),
        (b"\x12\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f", "no part of an upload"),
        (b"\x0a\x03\x0a\x01\xff", "no part of an upload"),  # a ticket that is not UTF-8
        (part_of(1, 2, DATA)[:-1], "no part of an upload"),
    ],
)
def test_nonsense_is_refused(message: bytes, text: str) -> None:
    with pytest.raises(TransferError, match=text) as refusal:
        read_part(message)
    assert refusal.value.code == "protocol"


@pytest.mark.parametrize("offset", [0, 1, 300, 2**63, 2**64 - 1])
@pytest.mark.parametrize("data", [b"", b"x", DATA], ids=["none", "one", "most"])
def test_a_written_chunk_is_what_protobuf_writes(offset: int, data: bytes) -> None:
    for crc32 in (0, zlib.crc32(data)):
        expected = pb.Chunk(offset=offset, crc32=crc32, data=data).SerializeToString()
        assert write_chunk(offset, crc32, memoryview(data)) == expected


def test_a_full_chunk_fits_well_into_a_message() -> None:
    assert len(part_of(2**64 - 1, 2**32 - 1, bytes(MAX_CHUNK))) < MAX_CHUNK + 32
