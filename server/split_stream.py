"""One stream of a split session: legs are read ahead within the credit, and answered in order."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

from fedloom.core.body import Body
from fedloom.core.chunks import read_chunk
from fedloom.core.errors import SplitError, TransferError
from fedloom.protos import split_pb2 as pb
from fedloom.server.messages import read
from fedloom.server.refusing import TROUBLE
from fedloom.server.split_course import Course
from fedloom.server.split_messages import LegIn, messages_of, read_leg
from fedloom.server.split_room import Room
from fedloom.server.split_session import Session

__all__ = ["Stream", "next_part"]

_PASSING = ("evicted", "memory", "late")
"""What ends a leg, and not the session."""
_BESIDE = 64
"""Messages that are no legs and wait at most."""

Item: TypeAlias = "LegIn | pb.Sync | pb.Evict | pb.Close | Exception | None"


@dataclass(eq=False)
class Stream:
    """A stream, from after its opening to its end.

    Attributes:
        session: whose legs it carries.
        parts: what the client sends.
        write: sends a message, once the client reads.
        room: for bodies.
        course: where legs are done.
        check: raises where the client is not let in any more.
        closed: the client said that the session is over.
    """

    session: Session
    parts: AsyncIterator[bytes]
    write: Callable[[bytes], Awaitable[None]]
    room: Room
    course: Course
    check: Callable[[], object]
    closed: bool = False
    _items: "asyncio.Queue[Item]" = field(default_factory=asyncio.Queue)
    _legs: int = 0
    _taken: int = 0

    async def run(self) -> None:
        """Answer legs until the client ends the stream.

        Raises:
            FedloomError: a message was refused, or nothing moved for too long.
        """
        reading = asyncio.create_task(self._read())
        try:
            while (item := await self._items.get()) is not None:
                if isinstance(item, Exception):
                    raise item
                await self._do(item)
        finally:
            # Nothing is waited for here: whoever ends a stream may do so twice.
            reading.cancel()
            self.room.give(self._taken)

    async def send(self, message: Any) -> None:
        """Send one message.

        Raises:
            TransferError: the client does not read.
        """
        await self._send(bytes(message.SerializeToString()))

    async def _send(self, message: bytes) -> None:
        patience = self.session.terms.patience
        try:
            async with asyncio.timeout(patience):
                await self.write(message)
        except TimeoutError:
            text = f"nothing was read for {patience:g} s"
            raise TransferError(text, code="stalled", retry_after=1.0) from None

    async def _do(self, item: "LegIn | pb.Sync | pb.Evict | pb.Close") -> None:
        if isinstance(item, LegIn):
            await self._answer(item)
        elif isinstance(item, pb.Evict):
            await self.course.do(self.session.evict, item.step)
        elif isinstance(item, pb.Sync):
            done = self.session.done
            mark = None if done is None else pb.Mark(step=done.step, version=done.version)
            version = self.session.host.version(self.session.key)
            await self.send(pb.Down(synced=pb.Synced(version=version, done=mark)))
        else:
            self.closed = True
            self._items.put_nowait(None)

    async def _answer(self, leg: LegIn) -> None:
        size = len(leg.body)
        try:
            answer = await self.course.work(self.session, leg)
        except SplitError as error:
            if error.code not in _PASSING:
                raise
            self._done(size)
            said = pb.Error(kind=leg.kind, step=leg.step, code=error.code, text=str(error)[:500])
            await self.send(pb.Down(error=said))
        else:
            del leg
            self._done(size)
            for message in messages_of(answer):
                await self._send(message)

    def _done(self, size: int) -> None:
        """A leg is no longer under way: before its answer is sent, after which another may come."""
        self._legs -= 1
        self._taken -= size
        self.room.give(size)

    async def _read(self) -> None:
        try:
            while (part := await self._next(self.session.terms.idle)) is not None:
                self._items.put_nowait(await self._read_one(part))
            self._items.put_nowait(None)
        except TROUBLE as error:
            self._items.put_nowait(error)

    async def _read_one(self, part: Any) -> Item:
        self.check()
        which = part.WhichOneof("part")
        if which == "leg":
            return await self._read_leg(part.leg)
        if which not in ("sync", "evict", "close"):
            raise SplitError(f"{which} where a leg may come", code="order")
        if self._items.qsize() > self.session.terms.credit + _BESIDE:
            raise SplitError(f"more than {_BESIDE} messages wait", code="credit")
        found: Item = getattr(part, which)
        return found

    async def _read_leg(self, message: Any) -> LegIn:
        terms = self.session.terms
        self._legs += 1
        if self._legs > terms.credit:
            text = f"{self._legs} legs under way; at most {terms.credit}"
            raise SplitError(text, code="credit")
        leg = read_leg(message, terms, labels=self.session.opened.labels)
        size = message.size
        await self.room.take(size, terms.patience)
        self._taken += size
        body = Body(size)
        try:
            async with asyncio.timeout(terms.patience):
                while not body.whole:
                    await self._read_chunk(body)
        except TimeoutError:
            text = f"{body.arrived} of {size} bytes came in {terms.patience:g} s"
            raise TransferError(text, code="stalled", retry_after=1.0) from None
        return replace(leg, body=body.data)

    async def _read_chunk(self, body: Body) -> None:
        message = await _arrived(self.parts, None)
        if message is None:
            raise TransferError("the stream ended within a leg", code="too-short", retry_after=0.0)
        if found := read_chunk(message):
            body.add(*found)
            return
        part = read(pb.Up, message)
        if part.WhichOneof("part") != "chunk":
            raise SplitError(f"{part.WhichOneof('part')} within a leg", code="order")
        body.add(part.chunk.offset, part.chunk.sum, part.chunk.data)

    async def _next(self, seconds: float | None) -> Any:
        return await next_part(self.parts, seconds)


async def next_part(parts: AsyncIterator[bytes], seconds: float | None) -> Any:
    """The next message of a client, or None at the end of its stream.

    Raises:
        TransferError: none comes in time (``stalled``), or it cannot be read (``protocol``).
    """
    message = await _arrived(parts, seconds)
    return None if message is None else read(pb.Up, message)


async def _arrived(parts: AsyncIterator[bytes], seconds: float | None) -> bytes | None:
    try:
        async with asyncio.timeout(seconds):
            return await anext(parts, None)
    except TimeoutError:
        if seconds is None:
            raise
        text = f"nothing came for {seconds:g} s"
        raise TransferError(text, code="stalled", retry_after=1.0) from None
