import asyncio
from collections.abc import AsyncIterator
from zlib import crc32

import pytest

from fedloom.core.errors import IdentityError, TransferError
from fedloom.protos import federation_pb2 as pb
from fedloom.server.counting import Counting
from fedloom.server.uploading import chunks_of, header_of

HEADER = pb.UploadPart(header=pb.UploadHeader(ticket="t", size=6)).SerializeToString()


def chunk(data: bytes, offset: int = 0) -> bytes:
    part = pb.UploadPart(chunk=pb.Chunk(offset=offset, crc32=crc32(data), data=data))
    return bytes(part.SerializeToString())


async def stream(*parts: bytes, stall: bool = False) -> AsyncIterator[bytes]:
    for part in parts:
        yield part
    if stall:
        await asyncio.sleep(60)


def allowed() -> None:
    pass


def read(*parts: bytes, counting: Counting | None = None, stall: bool = False) -> list[bytes]:
    async def go() -> list[bytes]:
        found = stream(*parts, stall=stall)
        header = await header_of(found)
        assert header.ticket == "t"
        chunks = chunks_of(found, allowed, counting or Counting())
        return [bytes(part.data) async for part in chunks]

    return asyncio.run(go())


def test_a_header_and_then_chunks() -> None:
    counting = Counting()
    assert read(HEADER, chunk(b"abc"), chunk(b"def", 3), counting=counting) == [b"abc", b"def"]
    assert counting.bytes_up == 6
    assert read(HEADER) == []


@pytest.mark.parametrize(
    ("parts", "text"),
    [
        ([], "neither header nor chunk"),
        ([b"\xff"], "no part of an upload"),
        ([chunk(b"abc")], "begins with its header"),
        ([HEADER, HEADER], "one header"),
        ([HEADER, b"\xff"], "no part of an upload"),
    ],
)
def test_what_is_out_of_place(parts: list[bytes], text: str) -> None:
    with pytest.raises(TransferError, match=text) as caught:
        read(*parts)
    assert caught.value.code == "protocol"


def test_a_stream_that_stands_still_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedloom.server.uploading.STALLED", 0.01)
    for parts in ((), (HEADER, chunk(b"abc"))):
        with pytest.raises(TransferError, match=r"nothing arrived for 0\.01 s") as caught:
            read(*parts, stall=True)
        assert (caught.value.code, caught.value.retry_after) == ("too-short", 1.0)


@pytest.mark.parametrize("count", [1, 16, 40])
def test_who_is_shut_out_meanwhile_does_not_get_to_the_end(count: int) -> None:
    def revoked() -> None:
        raise IdentityError("revoked", code="revoked")

    async def go() -> None:
        parts = stream(*[chunk(b"a", at) for at in range(count)])
        async for _ in chunks_of(parts, revoked, counting):
            pass

    counting = Counting()
    with pytest.raises(IdentityError, match="revoked"):
        asyncio.run(go())
    assert counting.bytes_up == min(count, 16)
