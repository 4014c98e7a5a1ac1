"""A ClientApp at work on one node, whatever it raises."""

from collections.abc import Mapping
from typing import Any

from flwr.app import Context, Error, Message, RecordDict

from fedloom.flower.grid import RUN
from fedloom.strategies.flower.hosting import identified

__all__ = ["Node"]

_FAILED = 2  # Flower's code for a ClientApp that raised


class Node:
    """One node: its context stays from message to message.

    Args:
        app: the ClientApp.
        number: of the node.
        config: ``node_config``.
        run_config: as the app's config says.
    """

    def __init__(
        self, app: Any, number: int, config: Mapping[str, Any], run_config: Mapping[str, Any]
    ) -> None:
        identified()
        self._app = app
        self.context = Context(RUN, number, dict(config), RecordDict(), dict(run_config))

    def answer(self, message: Any) -> Any:
        """The reply to a message; an error, where the app raises."""
        try:
            reply = self._app(_own(message), self.context)
        except Exception as error:  # an app's code may raise anything
            reply = Message(Error(_FAILED, f"{type(error).__name__}: {error}"), reply_to=message)
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
