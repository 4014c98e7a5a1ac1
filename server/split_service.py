"""The calls of split learning. Each begins by asking who is calling."""

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

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

__all__ = ["SplitCalls"]

Context: TypeAlias = Any
"""``grpc.aio.ServicerContext``, which has no types."""


@dataclass(eq=False)
class SplitCalls:
    """The ``fedloom.split.v1.Split`` service.

    Attributes:
        doorkeeper: says who is calling.
        sessions: of the far blocks that are hosted.
        room: for bodies.
        counting: what is counted for whoever watches.
    """

    doorkeeper: Callable[[Context], ClientId]
    sessions: Sessions
    room: Room
    counting: Counting = field(default_factory=Counting)

    def handler(self) -> grpc.GenericRpcHandler:
        """The calls by name, for a server."""
        calls = {"Session": grpc.stream_stream_rpc_method_handler(self._session)}
        return grpc.method_handlers_generic_handler("fedloom.split.v1.Split", calls)

    async def _session(self, parts: AsyncIterator[bytes], context: Context) -> None:
        try:
            client = self.doorkeeper(context)
            part = await next_part(parts, self.sessions.terms.patience)
            if part is None or part.WhichOneof("part") != "open":
                raise SplitError("a session begins with its opening", code="order")
            session = await self.sessions.open(client, part.open)
            await self._run(session, parts, context)
        except TROUBLE as error:
            await turn_away(context, error, self.counting)

    async def _run(self, session: Session, parts: AsyncIterator[bytes], context: Context) -> None:
        stream = Stream(
            session,
            parts,
            context.write,
            self.room,
            self.sessions.course,
            check=lambda: self.doorkeeper(context),
        )

        async def talk() -> None:
            await stream.send(pb.Down(ready=_ready(session, self.sessions.terms)))
            await stream.run()

        await self.sessions.run(session, talk)
        if stream.closed:
            await self.sessions.close(session)


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
