"""The sessions of all clients with the far blocks that are hosted here."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from fedloom.core.errors import SplitError, TransferError
from fedloom.core.types import ClientId
from fedloom.server.failpoints import reach
from fedloom.server.split_course import Course
from fedloom.server.split_host import Host, Terms
from fedloom.server.split_journal import Journal, Moved
from fedloom.server.split_messages import Mark, check_open
from fedloom.server.split_session import Session

__all__ = ["Sessions"]

_AGREED = ("plan", "first", "last", "labels", "dtype", "codec_up", "codec_down", "seed", "round")
_LOOK = 0.05
"""Seconds between looks at whether a turn has come."""


@dataclass(eq=False)
class _Kept:
    """A session, and the stream that it is on."""

    session: Session
    stream: "asyncio.Task[None] | None" = None
    left: float = 0.0

    @property
    def live(self) -> bool:
        """Whether a stream is open."""
        return self.stream is not None and not self.stream.done()


@dataclass(eq=False)
class Sessions:
    """Opens sessions, and keeps those whose stream broke.

    Attributes:
        host: of the far blocks.
        terms: what it takes.
        course: where everything that touches the host is done.
        journal: where steps are written down; None for nowhere.
        clock: seconds.
        part: the host of some of its blocks, from the first up to the last that are asked for;
            None where all are served together.
        over: why there is no session any more; empty while there may be.
    """

    host: Host
    terms: Terms
    course: Course
    journal: Journal | None = None
    clock: Callable[[], float] = time.monotonic
    part: Callable[[int, int], Host] | None = None
    over: str = ""
    _kept: dict[str, _Kept] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Take up the sessions of a process that ended."""
        if self.journal is None:
            return
        shared = self.journal.shared()
        if shared is not None:
            self.host.load("", shared, 0)
        for row, state in self.journal.rows():
            session = Session.again(row, self.host, self.terms, self.journal)
            self.host.join(row.key)
            self.host.load(row.key, state, row.step)
            self._kept[row.key] = _Kept(session, left=self.clock())

    @property
    def live(self) -> int:
        """Sessions that are on a stream now."""
        return sum(kept.live for kept in self._kept.values())

    def of(self, client: ClientId, message: Any) -> "Sessions":
        """See `fedloom.server.split_service.Finding`: those of whoever asks."""
        return self

    async def open(self, client: ClientId, message: Any) -> Session:
        """A new session, or one that goes on; an older stream of it is ended first.

        Raises:
            SplitError: it cannot be had so, or client and host do not agree where it stands.
            TransferError: there are too many (``busy``).
        """
        if self.over:
            raise SplitError(self.over, code="plan")
        check_open(message, self.terms)
        key = f"{client}/{message.session.hex()}"
        await self._forget()
        kept = self._kept.get(key) or await self._made(key, client, message)
        if kept.live:
            assert kept.stream is not None
            kept.stream.cancel()
            await asyncio.wait({kept.stream})
        theirs = Mark(message.done.step, message.done.version) if message.HasField("done") else None
        different = [n for n in _AGREED if getattr(message, n) != getattr(kept.session.opened, n)]
        if different:
            text = f"{different[0]} is not what this session began with"
            raise SplitError(text, code="resume")
        await self.course.do(kept.session.agree, theirs)
        return kept.session

    async def run(self, session: Session, talk: Callable[[], Awaitable[None]]) -> None:
        """Talk with a client until its stream ends; a later one of the session may end it.

        Raises:
            FedloomError: what `talk` raises, or the client came back on another stream
                (``superseded``).
        """
        kept = self._kept.get(session.key)
        if kept is None:
            raise TransferError("the session is over", code="superseded")
        if kept.live and kept.stream is not None:
            kept.stream.cancel()

        async def stream() -> None:
            try:
                await talk()
            finally:
                kept.left = self.clock()
                self.course.begin(session.dropped)

        kept.stream = own = asyncio.create_task(stream())
        try:
            await asyncio.wait({own})
        finally:
            own.cancel()
        if own.cancelled():
            if self.over:
                raise SplitError(self.over, code="plan")
            raise TransferError("the client came back on another stream", code="superseded")
        own.result()

    async def close(self, session: Session) -> None:
        """A session is over."""
        await self.course.do(self._leave, session)

    def end(self, why: str) -> None:
        """No session begins or goes on any more; what they came to stays."""
        self.over = why
        for kept in list(self._kept.values()):
            if kept.stream is not None:
                kept.stream.cancel()

    def moved(self, client: ClientId) -> Moved | None:
        """What a client's latest session has come to; None where it had none. In the course."""
        every = [kept.session for kept in list(self._kept.values())]
        own = [session for session in every if session.client == client]
        if own:
            return self._come_to(own[-1])
        return None if self.journal is None else self.journal.moved(client)

    def _leave(self, session: Session) -> None:
        if session.key not in self._kept:
            return
        if self.journal is not None:
            lane = self.host.lane(session.key)
            self.journal.forget(session.key, lane, session.client, self._come_to(session))
            reach("session-closed")
        self.host.leave(session.key)
        self._kept.pop(session.key, None)

    def _come_to(self, session: Session) -> Moved:
        host, key = self.host, session.key
        own = host.moved(key) if host.lane(key) else torch.zeros(1, 0)
        return Moved(host.version(key), session.sent, session.received, own)

    async def _made(self, key: str, client: ClientId, message: Any) -> _Kept:
        before = await self._ended(client) if self.terms.alone else None
        if len(self._kept) >= self.terms.sessions:
            text = f"{len(self._kept)} sessions; no more are taken now"
            raise TransferError(text, code="busy", retry_after=10.0)
        await self._joined(key)
        host = self.part(message.first, message.last) if self.part else self.host
        session = Session(key, client, message, host, self.terms, journal=self.journal)
        if self.journal is not None and self.journal.taken_up:
            session.newest = None  # it may have begun with a process that ended in its first step
        if before is not None:
            session.sent, session.received = before.sent, before.received
        self._kept[key] = _Kept(session, left=self.clock())
        return self._kept[key]

    async def _ended(self, client: ClientId) -> Moved | None:
        """What a client's older sessions came to, which are over now."""
        for kept in list(self._kept.values()):
            if kept.session.client == client:
                if kept.stream is not None:
                    kept.stream.cancel()
                await self.close(kept.session)
        return await self.course.do(self.moved, client)

    async def _joined(self, key: str) -> None:
        """Let the host know; where sessions take turns, this one waits for its own."""
        until = self.clock() + self.terms.patience
        while True:
            try:
                return await self.course.do(self.host.join, key)
            except SplitError as error:
                if error.code != "busy":
                    raise
                if self.clock() >= until:
                    raise TransferError(str(error), code="busy", retry_after=1.0) from None
            await asyncio.sleep(_LOOK)
            await self._forget()

    async def _forget(self) -> None:
        """Let go of sessions whose client did not come back."""
        before = self.clock() - self.terms.keep
        for kept in list(self._kept.values()):
            if not kept.live and kept.left < before:
                await self.close(kept.session)
