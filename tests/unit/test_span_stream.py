"""A device's end of a stream, over calls that say what the test wants."""

import threading
from collections.abc import Callable, Generator, Iterator
from typing import Any

import pytest

from fedloom.client.span_stream import Call, SpanStream
from fedloom.core.body import pieces
from fedloom.core.chunks import chunk_message
from fedloom.core.errors import TransferError
from fedloom.protos import split_pb2 as pb

READY = pb.Down(ready=pb.Ready(version=3, credit=2))
BODY = bytes(range(200)) * 10_000  # two pieces


def answer(size: int = len(BODY)) -> Any:
    return pb.Down(answer=pb.Answer(kind=pb.FORWARD, step=1, version=4, size=size))


def saying(*parts: Any, sent: list[Any] | None = None) -> Call:
    """A call that says these messages, and keeps what it is sent where it is told to."""

    def call(
        up: Iterator[bytes], begun: Callable[[Callable[[], object]], object]
    ) -> Generator[bytes, None, None]:
        begun(lambda: None)
        for part in parts:
            yield part if isinstance(part, bytes) else part.SerializeToString()
        if sent is not None:
            sent.extend(pb.Up.FromString(each) for each in up)

    return call


def test_a_leg_and_its_answer() -> None:
    sent: list[Any] = []
    chunks = [chunk_message(*piece) for piece in pieces(BODY)]
    assert len(chunks) == 2
    stream = SpanStream(saying(READY, answer(), *chunks, sent=sent), pb.Open(plan="tiny"))
    assert stream.ready.version == 3
    stream.send(pb.Leg(step=1, size=len(BODY)), BODY)
    header, body = stream.answer()
    assert (header.step, header.version, bytes(body)) == (1, 4, BODY)
    stream.close(over=True)
    assert [each.WhichOneof("part") for each in sent] == ["open", "leg", "chunk", "chunk", "close"]
    assert sent[0].open.plan == "tiny"
    assert b"".join(each.chunk.data for each in sent[2:4]) == BODY


def test_a_chunk_as_protobuf_may_write_it_too() -> None:
    # Data before the offset, and the offset though it is zero; the sum of "ab" is 0x6261.
    odd = bytes.fromhex("1a0f" + "1a026162" + "116162000000000000" + "0800")
    stream = SpanStream(saying(READY, answer(2), odd), pb.Open())
    assert bytes(stream.answer()[1]) == b"ab"


def test_an_error_of_a_leg_has_no_body() -> None:
    said = pb.Down(error=pb.Error(step=1, code="evicted", text="gone"))
    stream = SpanStream(saying(READY, said), pb.Open())
    header, body = stream.answer()
    assert (header.code, len(body)) == ("evicted", 0)


@pytest.mark.parametrize(
    ("parts", "text", "code"),
    [
        ([READY, READY], "the far side sent ready out of turn", "protocol"),
        ([READY, answer(), answer()], "the far side sent answer out of turn", "protocol"),
        ([READY, b"\xff\xff"], "2 bytes of the far side that are no message", "protocol"),
        ([READY], "the far side ended the stream", "unreachable"),
        ([READY, answer(2), chunk_message(0, 1, b"ab")], "the piece at 0 was damaged", "chunk-crc"),
        ([READY, answer(2), chunk_message(1, 1, b"ab")], "a piece at 1; the next", "chunk-order"),
    ],
)
def test_what_is_no_answer(parts: list[Any], text: str, code: str) -> None:
    stream = SpanStream(saying(*parts), pb.Open())
    with pytest.raises(TransferError, match=text) as refused:
        stream.answer()
    assert refused.value.code == code


def test_a_far_side_that_is_not_ready() -> None:
    with pytest.raises(TransferError, match="the far side sent answer out of turn"):
        SpanStream(saying(answer()), pb.Open())


def test_an_answer_that_does_not_come() -> None:
    ended = threading.Event()

    def call(
        up: Iterator[bytes], begun: Callable[[Callable[[], object]], object]
    ) -> Generator[bytes, None, None]:
        begun(ended.set)
        yield READY.SerializeToString()
        ended.wait(20)
        raise TransferError("it was cut", code="unreachable")

    stream = SpanStream(call, pb.Open(), patience=0.2)
    with pytest.raises(TransferError, match=r"no answer of the far side for 0\.2 s") as refused:
        stream.sync()
    assert refused.value.code == "unreachable"
    assert ended.is_set()


def test_where_the_far_side_stands() -> None:
    said = pb.Down(synced=pb.Synced(version=7))
    assert SpanStream(saying(READY, said), pb.Open()).sync().version == 7
    with pytest.raises(TransferError, match="the far side sent ready out of turn"):
        SpanStream(saying(READY, READY), pb.Open()).sync()
