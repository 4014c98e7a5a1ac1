import pytest

from fedloom.core.body import word_sum
from fedloom.core.chunks import chunk_message, read_chunk
from fedloom.protos import split_pb2 as pb

CHUNKS = [(0, b"a"), (0, bytes(16)), (300, b"abc" * 100), (1 << 40, bytes(range(256)) * 4096)]


@pytest.mark.parametrize(("offset", "data"), CHUNKS)
def test_chunks_are_what_protobuf_writes(offset: int, data: bytes) -> None:
    total = word_sum(data)
    message = chunk_message(offset, total, data)
    chunk = pb.Chunk(offset=offset, sum=total, data=data)
    assert message == pb.Up(chunk=chunk).SerializeToString()
    assert message == pb.Down(chunk=chunk).SerializeToString()
    found = read_chunk(message)
    assert found is not None
    assert (found[0], found[1], bytes(found[2])) == (offset, total, data)


def test_the_data_is_no_copy() -> None:
    message = chunk_message(7, 1, b"abcd")
    found = read_chunk(message)
    assert found is not None
    assert found[2].obj is message


@pytest.mark.parametrize("cut", range(20))
def test_what_is_cut_is_no_chunk(cut: int) -> None:
    message = chunk_message(300, 5, b"abcd")
    assert len(message) == 20  # 1a 12 | 08 ac02 | 11 and 8 bytes | 1a 04 and 4 bytes
    assert read_chunk(message[:cut]) is None


@pytest.mark.parametrize(
    "message",
    [
        pb.Up(sync=pb.Sync()).SerializeToString(),
        pb.Down(answer=pb.Answer(step=3, size=8)).SerializeToString(),
        chunk_message(1, 2, b"ab") + b"\x00",
        # The same in another order, which protobuf allows: data, then the offset.
        bytes.fromhex("1a051a01610801"),
        bytes.fromhex("1a021a05"),  # five bytes are said to come, and none does
    ],
)
def test_other_messages_are_left_to_protobuf(message: bytes) -> None:
    assert read_chunk(message) is None
