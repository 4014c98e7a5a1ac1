"""A Flower ``Grid`` over whatever carries messages: the simulator, or our server."""

import time
from collections.abc import Callable, Iterable, Sequence
from types import SimpleNamespace
from typing import Any, Protocol
from uuid import uuid4

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

__all__ = ["AppGrid", "Carrier"]

_LOOK = 0.02
RUN = 1


class Carrier(Protocol):
    """What brings messages to nodes and their replies back."""

    def nodes(self) -> Sequence[int]:
        """Who is there."""
        ...

    def send(self, message: Any) -> None:
        """Take a message, which has its id."""
        ...

    def replies(self, ids: Iterable[str]) -> list[Any]:
        """The replies to messages of these ids that have come and were not asked for before."""
        ...


class AppGrid(Grid):  # type: ignore[misc, unused-ignore]  # untyped here
    """Sends a ServerApp's messages by a carrier.

    Args:
        carrier: of messages.
        watch: given the messages and replies of each exchange.
    """

    def __init__(
        self, carrier: Carrier, watch: Callable[[Sequence[Any], Sequence[Any]], None]
    ) -> None:
        self._carrier, self._watch = carrier, watch
        self._run = SimpleNamespace(run_id=RUN)
        self._sent: dict[str, Any] = {}

    def set_run(self, run: Any) -> None:
        """There is one run in a process."""

    @property
    def run(self) -> Any:
        """Something with a ``run_id``."""
        return self._run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """A message, as older apps make one."""
        kind = {"dst_node_id": dst_node_id, "message_type": message_type, "group_id": group_id}
        return Message(content, **kind, ttl=ttl)

    def get_node_ids(self) -> Iterable[int]:
        """Who is there."""
        return list(self._carrier.nodes())

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Send messages; their ids."""
        ids = []
        for message in messages:
            number = str(uuid4())
            facts = message.metadata.__dict__
            facts["_message_id"], facts["_run_id"], facts["_src_node_id"] = number, RUN, 1
            self._sent[number] = message
            self._carrier.send(message)
            ids.append(number)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """The replies that have come."""
        found = self._carrier.replies(message_ids)
        asked = [self._sent.pop(reply.metadata.reply_to_message_id) for reply in found]
        if found:
            self._watch(asked, found)
        return found

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Send messages, and wait for the replies; some strategies go through them twice."""
        until = None if timeout is None else time.monotonic() + timeout
        waiting = set(self.push_messages(messages))
        asked, found = [self._sent[number] for number in waiting], list[Message]()
        while waiting and (until is None or time.monotonic() < until):
            came = self._carrier.replies(waiting)
            waiting -= {reply.metadata.reply_to_message_id for reply in came}
            found += came
            if waiting:
                time.sleep(_LOOK)
        for message in asked:
            self._sent.pop(message.metadata.message_id, None)
        self._watch(asked, found)
        return found
