"""Where the ServerApp's thread and the calls of nodes meet: messages out, replies in."""

import asyncio
import threading
import time
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any

from fedloom.core.errors import TransferError
from fedloom.strategies.flower.records import node_of

__all__ = ["Mailbox"]


class Mailbox:
    """Messages for nodes, by client (`fedloom.flower.grid.Carrier`).

    A message that a node has taken stays its own until it replies, and is given again where it asks
    again: it was cut off, or started again. A client is a node for as long as it is let in.

    Args:
        patience: seconds after which a client that has not asked for work is no node any more.
    """

    def __init__(self, patience: float = 60.0) -> None:
        self._patience = patience
        self._lock = threading.Lock()
        self._clients: dict[int, str] = {}
        self._seen: dict[int, float] = {}
        self._out: dict[int, deque[Any]] = {}
        self._came: dict[str, Any] = {}
        self._told: set[int] = set()
        self.over = False

    def nodes(self) -> Sequence[int]:
        """The clients who asked for work lately, or are at work."""
        now = time.monotonic()
        with self._lock:
            found = [n for n, at in self._seen.items() if now - at < self._patience or self._out[n]]
        return sorted(found)

    def send(self, message: Any) -> None:
        """Put a message out for its node."""
        with self._lock:
            self._out.setdefault(message.metadata.dst_node_id, deque()).append(message)

    def replies(self, ids: Iterable[str]) -> list[Any]:
        """What has come."""
        with self._lock:
            found = [self._came.pop(number) for number in list(ids) if number in self._came]
        return found

    def seen(self, client: str) -> int:
        """A client asks for work; its node's number."""
        number = node_of(client)
        with self._lock:
            self._clients[number], self._seen[number] = client, time.monotonic()
            self._out.setdefault(number, deque())
            if self.over:
                self._told.add(number)
        return number

    async def next(self, client: str, seconds: float) -> Any | None:
        """The oldest message for a client; None where there is none for so long."""
        number, until = self.seen(client), time.monotonic() + seconds
        while not self.over:
            with self._lock:
                if self._out[number]:
                    return self._out[number][0]
            if time.monotonic() >= until:
                return None
            await asyncio.sleep(0.01)
        return None

    def take(self, client: str, reply: Any) -> None:
        """A client's reply to the message that it has.

        Raises:
            TransferError: it has no such message; it may have replied before.
        """
        number = node_of(client)
        with self._lock:
            waiting = self._out.get(number, deque())
            asked = reply.metadata.reply_to_message_id
            if not waiting or waiting[0].metadata.message_id != asked:
                raise TransferError(f"no message {asked!r} waits for a reply", code="no-such-task")
            facts = reply.metadata.__dict__
            facts["_src_node_id"], facts["_dst_node_id"] = number, 1
            waiting.popleft()
            self._came[asked] = reply
            self._seen[number] = time.monotonic()

    def end(self) -> None:
        """There will be no more messages."""
        self.over = True

    @property
    def unaware(self) -> bool:
        """Whether a client that was there has not been told of the end."""
        with self._lock:
            return bool(set(self._seen) - self._told)
