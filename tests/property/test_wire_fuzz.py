import pytest
from google.protobuf.message import DecodeError
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fedloom.core.errors import TransferError
from fedloom.protos import federation_pb2 as pb
from fedloom.server.wire import RawChunk, read_part, write_chunk

U64, U32 = st.integers(0, 2**64 - 1), st.integers(0, 2**32 - 1)
CHUNKS = st.builds(pb.Chunk, offset=U64, crc32=U32, data=st.binary(max_size=40))
HEADERS = st.builds(pb.UploadHeader, ticket=st.text(max_size=8), size=U64, offset=U64)
PARTS = st.one_of(
    st.builds(pb.UploadPart, chunk=CHUNKS), st.builds(pb.UploadPart, header=HEADERS)
).map(lambda part: part.SerializeToString())
# Bytes that mean something to protobuf, so that many messages are nearly right.
FIELDS = st.sampled_from([b"\x12", b"\x0a", b"\x08", b"\x15", b"\x1a", b"\x00", b"\x80", b"\xff"])
NEARLY = st.lists(st.one_of(FIELDS, st.binary(max_size=3)), max_size=20).map(b"".join)


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """One or two parts, with some bytes changed, put in or taken out."""
    message = bytearray(b"".join(draw(st.lists(PARTS, min_size=1, max_size=2))))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(message)))
        message[at : at + draw(st.integers(0, 2))] = draw(st.one_of(FIELDS, st.binary(max_size=2)))
    return bytes(message)


def agree(message: bytes) -> None:
    """Parser and protobuf give the same part, or both none."""
    try:
        expected = pb.UploadPart.FromString(message)
    except DecodeError:
        expected = pb.UploadPart()
    if expected.WhichOneof("part") is None:
        with pytest.raises(TransferError, match=r"no part of|neither header nor"):
            read_part(message)
        return
    part = read_part(message)
    if not isinstance(part, RawChunk):
        assert expected.WhichOneof("part") == "header"
        assert part.SerializeToString() == expected.header.SerializeToString()  # NaN is not NaN
        return
    chunk = expected.chunk
    assert expected.WhichOneof("part") == "chunk"
    assert (part.offset, part.crc32, bytes(part.data)) == (chunk.offset, chunk.crc32, chunk.data)


@settings(max_examples=1000, deadline=None)
@given(st.one_of(st.binary(max_size=60), NEARLY))
@example(b"\x12\x85\x80\x80\x80\x80\x00\x1a\x03abc")  # a length in six bytes
@example(b"\x12\x10\x08" + b"\xff" * 9 + b"\x01\x1a\x03abc")  # the largest offset
@example(b"\x12\x10\x08" + b"\xff" * 9 + b"\x7f\x1a\x03abc")  # one that passes 64 bits
def test_any_bytes_read_as_protobuf_reads_them_or_are_refused(message: bytes) -> None:
    agree(message)


@settings(max_examples=1000, deadline=None)
@given(mutated())
def test_damaged_parts_read_as_protobuf_reads_them_or_are_refused(message: bytes) -> None:
    agree(message)


@settings(max_examples=300, deadline=None)
@given(offset=U64, crc32=U32, data=st.binary(max_size=300))
def test_chunks_are_written_as_protobuf_writes_them(offset: int, crc32: int, data: bytes) -> None:
    expected = pb.Chunk(offset=offset, crc32=crc32, data=data).SerializeToString()
    assert write_chunk(offset, crc32, data) == expected
