"""The call by which a device learns what a stage serves, before it opens a session."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import grpc

from fedloom.core.types import ClientId
from fedloom.protos import split_pb2 as pb
from fedloom.server.counting import Counting
from fedloom.server.hosting import TOKENS, Hosted
from fedloom.server.messages import check_protocol, read
from fedloom.server.refusing import TROUBLE, turn_away
from fedloom.server.split_sessions import Sessions

__all__ = ["Describing"]

Context: TypeAlias = Any
"""``grpc.aio.ServicerContext``, which has no types."""


@dataclass(frozen=True)
class Describing:
    """The ``Describe`` call of the ``fedloom.split.v1.Split`` service.

    Attributes:
        doorkeeper: says who is calling.
        hosted: what is served.
        throughput: blocks a second.
        sessions: of all clients.
        counting: what is counted for whoever watches.
    """

    doorkeeper: Callable[[Context], ClientId]
    hosted: Hosted
    throughput: float
    sessions: Sessions
    counting: Counting

    def handler(self) -> grpc.GenericRpcHandler:
        """The call by its name, for a server."""
        calls = {"Describe": grpc.unary_unary_rpc_method_handler(self._describe)}
        return grpc.method_handlers_generic_handler("fedloom.split.v1.Split", calls)

    async def _describe(self, data: bytes, context: Context) -> bytes:
        try:
            self.doorkeeper(context)
            check_protocol(read(pb.DescribeRequest, data).protocol)
        except TROUBLE as error:
            await turn_away(context, error, self.counting)
        return bytes(self._description().SerializeToString())

    def _description(self) -> Any:
        own, terms = self.hosted, self.sessions.terms
        return pb.Description(
            plan=terms.plan,
            first=own.first,
            last=own.last,
            depth=own.depth,
            width=terms.width,
            dtype=terms.dtype,
            bits=own.bits,
            throughput=self.throughput,
            tokens=TOKENS,
            sessions=self.sessions.live,
        )
