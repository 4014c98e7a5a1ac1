"""A ClientApp at work on one node, whatever it raises."""

from collections.abc import Mapping
from typing import Any

from flwr.app import Context, Error, Message, RecordDict
from flwr.common.serde import context_from_proto, context_to_proto
from flwr.proto.message_pb2 import Context as WireContext
from google.protobuf.message import DecodeError

from fedloom.core.errors import RunError
from fedloom.flower.wire import packed
from fedloom.strategies.flower.hosting import identified

__all__ = ["EXPIRED", "GONE", "UNANSWERABLE", "Node", "failed"]

RAISED = 2
EXPIRED = 3
UNANSWERABLE = 4
GONE = 5
"""Flower's codes: a ClientApp raised, a message or its reply is not to be had, a node is gone."""


def failed(message: Any, code: int, reason: str) -> Any:
    """The reply that says that there is none."""
    return _addressed(Message(Error(code, reason), reply_to=message), message)


class Node:
    """One node: its context stays from message to message.

    Args:
        app: the ClientApp.
        number: of the node.
        config: ``node_config``.
        run_config: as the app's config says.
        run: number of the run.
    """

    def __init__(
        self,
        app: Any,
        number: int,
        config: Mapping[str, Any],
        run_config: Mapping[str, Any],
        *,
        run: int = 1,
    ) -> None:
        identified()
        self._app = app
        self.context = Context(run, number, dict(config), RecordDict(), dict(run_config))

    def answer(self, message: Any) -> Any:
        """The reply to a message; an error, where the app raises or answers with no message."""
        try:
            reply = self._app(_own(message), self.context)
            if not isinstance(reply, Message):
                raise TypeError(f"the ClientApp returned {type(reply).__name__}, not a Message")
            return _addressed(reply, message)
        except (Exception, SystemExit) as error:  # an app's code may raise anything
            return failed(message, RAISED, f"{type(error).__name__}: {error}")

    def replied(self, message: Any, largest: int) -> tuple[Any, bytes]:
        """As `answer`, and the reply's bytes; an error, where there would be too many of them.

        Args:
            message: to answer.
            largest: bytes that a reply may have.
        """
        reply = self.answer(message)
        try:
            data = packed(reply)
            text = f"the reply has {len(data)} bytes, of at most {largest}"
        except Exception as error:  # what an app puts into a reply may be anything
            data, text = b"", f"the reply cannot be written: {type(error).__name__}: {error}"
        if data and (reply.has_error() or len(data) <= largest):
            return reply, data
        reply = failed(message, UNANSWERABLE, text)
        return reply, packed(reply)

    def kept(self) -> bytes:
        """The context, so that what the app keeps outlives the process.

        Raises:
            RunError: the app has put something into it that is no record of Flower's.
        """
        try:
            return bytes(context_to_proto(self.context).SerializeToString())
        except (AttributeError, TypeError, ValueError) as error:
            raise RunError(f"context.state: cannot be kept: {error}") from None

    def restore(self, data: bytes, where: object) -> None:
        """Take up what was kept; not that of another run.

        Raises:
            RunError: the bytes are damaged.
        """
        try:
            found = context_from_proto(WireContext.FromString(data))
        except (DecodeError, ValueError) as error:
            raise RunError(f"{where}: not a context of Flower's: {error}") from None
        if found.run_id == self.context.run_id:
            self.context.state = found.state


def _addressed(reply: Any, message: Any) -> Any:
    facts = reply.metadata.__dict__
    facts["_reply_to_message_id"] = message.metadata.message_id
    facts["_src_node_id"] = message.metadata.dst_node_id
    return reply


def _own(message: Any) -> Any:
    """The message with records of its own: those of a round share them."""
    copy = Message(
        RecordDict({name: record.copy() for name, record in message.content.items()}),
        dst_node_id=message.metadata.dst_node_id,
        message_type=message.metadata.message_type,
    )
    copy.metadata.__dict__.update(message.metadata.__dict__)
    return copy
