"""The sessions of all clients with the far blocks that are hosted here."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from fedloom.core.errors import SplitError, TransferError
from fedloom.core.types import ClientId
from fedloom.server.split_course import Course
from fedloom.server.split_host import Host, Terms
from fedloom.server.split_messages import Mark, check_open
from fedloom.server.split_session import Session

__all__ = ["Sessions"]

_AGREED = ("plan", "first", "last", "labels", "dtype", "codec_up", "codec_down", "seed", "round")


@dataclass(eq=False)
class _Kept:
    """A session, and the stream that it is on."""

    session: Session
    stream: "asyncio.Task[None] | None" = None
    left: float = 0.0


@dataclass(eq=False)
class Sessions:
    """Opens sessions, and keeps those whose stream broke.

    Attributes:
        host: of the far blocks.
        terms: what it takes.
        course: where everything that touches the host is done.
        clock: seconds.
    """

    host: Host
    terms: Terms
    course: Course
    clock: Callable[[], float] = time.monotonic
    _kept: dict[str, _Kept] = field(default_factory=dict)

    async def open(self, client: ClientId, message: Any) -> Session:
        """A new session, or one that goes on; an older stream of it is ended first.

        Raises:
            SplitError: it cannot be had so, or client and host do not agree where it stands.
            TransferError: there are too many (``busy``).
        """
        check_open(message, self.terms)
        key = f"{client}/{message.session.hex()}"
        await self._forget()
        kept = self._kept.get(key) or await self._made(key, client, message)
        while kept.stream is not None:
            kept.stream.cancel()
            await asyncio.wait({kept.stream})
            await asyncio.sleep(0)  # its own handler lets go of it first
        theirs = Mark(message.done.step, message.done.version) if message.HasField("done") else None
        different = [n for n in _AGREED if getattr(message, n) != getattr(kept.session.opened, n)]
        if different:
            text = f"{different[0]} is not what this session began with"
            raise SplitError(text, code="resume")
        await self.course.do(kept.session.agree, theirs)
        return kept.session

    async def run(self, session: Session, stream: "asyncio.Task[None]") -> None:
        """Wait for a stream of a session to end; a later one may end it.

        Raises:
            TransferError: the client came back on another stream (``superseded``).
        """
        kept = self._kept[session.key]
        kept.stream = stream
        try:
            await asyncio.wait({stream})
        finally:
            stream.cancel()
            await asyncio.wait({stream})
            kept.stream, kept.left = None, self.clock()
            await self.course.do(session.dropped)
        if stream.cancelled():
            raise TransferError("the client came back on another stream", code="superseded")
        stream.result()

    async def close(self, session: Session) -> None:
        """A session is over."""
        if self._kept.pop(session.key, None) is not None:
            await self.course.do(self.host.leave, session.key)

    async def _made(self, key: str, client: ClientId, message: Any) -> _Kept:
        if len(self._kept) >= self.terms.sessions:
            text = f"{len(self._kept)} sessions; no more are taken now"
            raise TransferError(text, code="busy", retry_after=10.0)
        await self.course.do(self.host.join, key)
        session = Session(key, client, message, self.host, self.terms)
        self._kept[key] = _Kept(session, left=self.clock())
        return self._kept[key]

    async def _forget(self) -> None:
        """Let go of sessions whose client did not come back."""
        before = self.clock() - self.terms.keep
        for kept in list(self._kept.values()):
            if kept.stream is None and kept.left < before:
                await self.close(kept.session)
