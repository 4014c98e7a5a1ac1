"""The calls of split learning. Each begins by asking who is calling."""

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

import grpc

from fedloom.core.errors import SplitError
from fedloom.core.types import ClientId
from fedloom.protos import split_pb2 as pb
from fedloom.server.counting import Counting
from fedloom.server.refusing import TROUBLE, turn_away
from fedloom.server.split_host import Terms
from fedloom.server.split_room import Room
from fedloom.server.split_session import Session
from fedloom.server.split_sessions import Sessions
from fedloom.server.split_stream import Stream, next_part

__all__ = ["Finding", "SplitCalls"]

Context: TypeAlias = Any
"""``grpc.aio.ServicerContext``, which has no types."""
_OPENING = 30.0
"""Seconds in which a stream says what it is for."""


class Finding(Protocol):
    """Knows the sessions among which an opening belongs."""

    def of(self, client: ClientId, message: Any) -> Sessions:
        """The sessions for a client's opening.

        Raises:
            SplitError: there are none for it (``plan``).
            TransferError: not yet (``busy``).
        """
        ...


@dataclass(eq=False)
class SplitCalls:
    """The ``fedloom.split.v1.Split`` service.

    Attributes:
        doorkeeper: says who is calling.
        finding: knows the sessions of the far blocks that are hosted.
        room: for bodies.
        counting: what is counted for whoever watches.
    """

    doorkeeper: Callable[[Context], ClientId]
    finding: Finding
    room: Room
    counting: Counting = field(default_factory=Counting)

    def handler(self) -> grpc.GenericRpcHandler:
        """The calls by name, for a server."""
        calls = {"Session": grpc.stream_stream_rpc_method_handler(self._session)}
        return grpc.method_handlers_generic_handler("fedloom.split.v1.Split", calls)

    async def _session(self, parts: AsyncIterator[bytes], context: Context) -> None:
        try:
            client = self.doorkeeper(context)
            part = await next_part(parts, _OPENING)
            if part is None or part.WhichOneof("part") != "open":
                raise SplitError("a session begins with its opening", code="order")
            sessions = self.finding.of(client, part.open)
            session = await sessions.open(client, part.open)
            await self._run(sessions, session, parts, context)
        except TROUBLE as error:
            await turn_away(context, error, self.counting)

    async def _run(
        self, sessions: Sessions, session: Session, parts: AsyncIterator[bytes], context: Context
    ) -> None:
        stream = Stream(
            session,
            parts,
            context.write,
            self.room,
            sessions.course,
            check=lambda: self.doorkeeper(context),
        )

        async def talk() -> None:
            await stream.send(pb.Down(ready=_ready(session, sessions.terms)))
            await stream.run()

        await sessions.run(session, talk)
        if stream.closed:
            await sessions.close(session)


def _ready(session: Session, terms: Terms) -> Any:
    done = session.done
    return pb.Ready(
        version=session.host.version(session.key),
        done=None if done is None else pb.Mark(step=done.step, version=done.version),
        credit=terms.credit,
        max_bytes=terms.max_bytes,
        max_length=terms.max_length,
        patience=terms.patience,
    )
