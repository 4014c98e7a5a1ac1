"""The calls by which Flower's messages travel: bytes in frames, beside our own contract.

``Next``: the client's wait in seconds (ASCII); then ``message`` and a message's bytes in frames of
at most 256 KiB, or the single frame ``wait``, or ``done``. ``Reply``: frames of a reply's bytes;
the answer is ``taken``. A message's bytes are Flower's own (``flwr.proto.Message``).
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.message_pb2 import Message as WireMessage
from google.protobuf.message import DecodeError

from fedloom.core.errors import TransferError
from fedloom.flower.mailbox import Mailbox
from fedloom.server.counting import Counting
from fedloom.server.refusing import TROUBLE, turn_away
from fedloom.server.service import Doorkeeper

__all__ = ["DONE", "MESSAGE", "SERVICE", "WAIT", "AppCalls", "frames", "packed", "unpacked"]

SERVICE = "fedloom.v1.FlowerApp"
MESSAGE, WAIT, DONE, TAKEN = b"message", b"wait", b"done", b"taken"
_FRAME = 256 << 10
_LONGEST = 60.0


def packed(message: Any) -> bytes:
    """A message as Flower writes it."""
    return bytes(message_to_proto(message).SerializeToString())


def unpacked(data: bytes) -> Any:
    """A message from its bytes.

    Raises:
        TransferError: they are none.
    """
    try:
        return message_from_proto(WireMessage.FromString(data))
    except (DecodeError, ValueError, KeyError, TypeError) as error:
        raise TransferError(f"not a message of Flower's: {error}", code="protocol") from None


def frames(data: bytes) -> list[bytes]:
    """Bytes in pieces that fit in a call's messages."""
    return [data[start : start + _FRAME] for start in range(0, len(data), _FRAME)]


class AppCalls:
    """The service, for enrolled clients.

    Args:
        doorkeeper: says who is calling.
        mailbox: of messages.
        largest: bytes that a reply may have.
    """

    def __init__(self, doorkeeper: Doorkeeper, mailbox: Mailbox, *, largest: int) -> None:
        self._doorkeeper, self._mailbox, self._largest = doorkeeper, mailbox, largest
        self._counting = Counting()

    def handler(self) -> grpc.GenericRpcHandler:
        """The calls by name, for a server."""
        calls = {
            "Next": grpc.unary_stream_rpc_method_handler(self._next),
            "Reply": grpc.stream_unary_rpc_method_handler(self._reply),
        }
        return grpc.method_handlers_generic_handler(SERVICE, calls)

    async def _next(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        try:
            client = self._doorkeeper(context)
            message = await self._mailbox.next(client, _seconds(request))
            self._doorkeeper(context)  # it may have been revoked while it waited
            if message is None:
                yield DONE if self._mailbox.over else WAIT
                return
            yield MESSAGE
            for frame in frames(await asyncio.to_thread(packed, message)):
                yield frame
        except TROUBLE as error:
            await turn_away(context, error, self._counting)

    async def _reply(self, parts: AsyncIterator[bytes], context: Any) -> bytes | None:
        try:
            client, data = self._doorkeeper(context), bytearray()
            async for part in parts:
                data += part
                if len(data) > self._largest:
                    text = f"a reply of more than {self._largest} bytes"
                    raise TransferError(text, code="too-large")
            reply = await asyncio.to_thread(unpacked, bytes(data))
            self._mailbox.take(client, reply)
        except TROUBLE as error:
            await turn_away(context, error, self._counting)
            return None
        return TAKEN


def _seconds(request: bytes) -> float:
    try:
        return min(max(float(request.decode()), 0.0), _LONGEST)
    except ValueError:
        raise TransferError("the wait is no number of seconds", code="protocol") from None
