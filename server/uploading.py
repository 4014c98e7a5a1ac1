"""The stream of an upload: its header, then its chunks, as long as something comes."""

import asyncio
from collections.abc import AsyncIterator, Callable

from fedloom.core.errors import TransferError
from fedloom.protos import federation_pb2 as pb
from fedloom.server.counting import Counting
from fedloom.server.wire import RawChunk, read_part

__all__ = ["STALLED", "chunks_of", "header_of"]

STALLED = 30.0
"""Seconds without a byte after which an upload is cut; what has arrived is kept."""
_LOOK = 16
"""Chunks between looks at whether the client is still let in."""


async def header_of(parts: AsyncIterator[bytes]) -> pb.UploadHeader:
    """The first message of an upload.

    Raises:
        TransferError: it does not come, or is something else.
    """
    part = read_part(await _next(parts) or b"")
    if isinstance(part, RawChunk):
        raise TransferError("an upload begins with its header", code="protocol")
    return part


async def chunks_of(
    parts: AsyncIterator[bytes], check: Callable[[], object], counting: Counting
) -> AsyncIterator[RawChunk]:
    """The messages after it.

    Args:
        parts: the stream.
        check: raises where the client is not let in any more.
        counting: is told of every byte.

    Raises:
        TransferError: one of them is no chunk, or none comes for `STALLED` seconds.
    """
    count = 0
    while (message := await _next(parts)) is not None:
        part = read_part(message)
        if not isinstance(part, RawChunk):
            raise TransferError("an upload has one header", code="protocol")
        counting.bytes_up += len(part.data)
        count += 1
        if count % _LOOK == 0:
            check()
        yield part
    check()


async def _next(parts: AsyncIterator[bytes]) -> bytes | None:
    try:
        async with asyncio.timeout(STALLED):  # `wait_for` would make a task of each message
            return await anext(parts, None)
    except TimeoutError:
        text = f"nothing arrived for {STALLED:g} s; what has arrived is kept"
        raise TransferError(text, code="too-short", retry_after=1.0) from None
