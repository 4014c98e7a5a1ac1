"""Where the ServerApp's thread and the calls of nodes meet: messages out, replies in."""

import asyncio
import threading
import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from fedloom.core.errors import TransferError
from fedloom.flower.hosting import EXPIRED, GONE, failed
from fedloom.strategies.flower.records import node_of

__all__ = ["Mailbox"]

_LOOK = 1.0
_SHORTEST, _LONGEST = 0.01, 0.2


@dataclass(frozen=True, eq=False)
class _Out:
    """A message that is out, its id, and since when."""

    message: Any
    id: str
    since: float


class Mailbox:
    """Messages for nodes, by client (`fedloom.flower.grid.Carrier`).

    A message that a node has taken stays its own until it replies, and is given again where it asks
    again: it was cut off, or started again. A client is a node for as long as it is let in and
    gives signs of life; messages of one that does not, and those older than their time to live,
    are answered by an error.

    Args:
        patience: seconds after which a client that gave no sign of life is no node any more.
    """

    def __init__(self, patience: float = 60.0) -> None:
        self._patience = patience
        self._lock = threading.Lock()
        self._seen: dict[int, float] = {}
        self._out: dict[int, deque[_Out]] = {}
        self._came: dict[str, Any] = {}
        self._told: set[int] = set()
        self._looked = 0.0
        self.over = False

    def nodes(self) -> Sequence[int]:
        """The clients who gave a sign of life lately."""
        now = time.monotonic()
        with self._lock:
            return sorted(n for n, at in self._seen.items() if now - at < self._patience)

    def send(self, message: Any) -> None:
        """Put a message out for its node."""
        with self._lock:
            waiting = self._out.setdefault(message.metadata.dst_node_id, deque())
            waiting.append(_Out(message, message.metadata.message_id, time.monotonic()))

    def replies(self, ids: Iterable[str]) -> list[Any]:
        """What has come, or will not come."""
        with self._lock:
            self._give_up()
            return [self._came.pop(number) for number in list(ids) if number in self._came]

    def withdraw(self, ids: Iterable[str]) -> None:
        """Forget messages; the node that works on one is not listened to."""
        gone = set(ids)
        with self._lock:
            for number in gone:
                self._came.pop(number, None)
            for node, waiting in self._out.items():
                self._out[node] = deque(out for out in waiting if out.id not in gone)

    def is_over(self, ids: Iterable[str]) -> bool:
        """Never: whoever waits says for how long."""
        return False

    def kept(self, node: int) -> bytes:
        """Nothing: clients keep their contexts themselves."""
        return b""

    def restore(self, node: int, data: bytes) -> None:
        """Nothing."""

    def seen(self, client: str) -> int:
        """A client gives a sign of life; its node's number."""
        number = node_of(client)
        with self._lock:
            self._seen[number] = time.monotonic()
            self._out.setdefault(number, deque())
            if self.over:
                self._told.add(number)
        return number

    async def next(self, client: str, seconds: float) -> Any | None:
        """The oldest message for a client; None where there is none for so long."""
        number, until, pause = self.seen(client), time.monotonic() + seconds, _SHORTEST
        while not self.over:
            with self._lock:
                if self._out[number]:
                    return self._out[number][0].message
            if time.monotonic() >= until:
                return None
            await asyncio.sleep(pause)
            pause = min(1.2 * pause, _LONGEST)  # many clients that wait long cost little
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
            if not waiting or waiting[0].id != asked:
                raise TransferError(f"no message {asked!r} waits for a reply", code="no-such-task")
            facts = reply.metadata.__dict__
            facts["_src_node_id"], facts["_dst_node_id"] = number, 1
            waiting.popleft()
            self._came[asked] = reply
            self._seen[number] = time.monotonic()

    def fail(self, message: Any, code: int, reason: str) -> None:
        """Answer a message by an error, where it is not answered yet."""
        with self._lock:
            waiting = self._out.get(message.metadata.dst_node_id, deque())
            for out in [out for out in waiting if out.message is message]:
                waiting.remove(out)
                self._came[out.id] = failed(message, code, reason)

    def end(self) -> None:
        """There will be no more messages."""
        self.over = True

    @property
    def unaware(self) -> bool:
        """Whether a client that was there has not been told of the end."""
        with self._lock:
            return bool(set(self._seen) - self._told)

    def _give_up(self) -> None:
        """Answer what nobody will; looked for once in a second."""
        now, clock = time.monotonic(), time.time()
        if now - self._looked < _LOOK:
            return
        self._looked = now
        for node, waiting in self._out.items():
            kept = deque[_Out]()
            for out in waiting:
                facts = out.message.metadata
                if now - max(self._seen.get(node, 0.0), out.since) > self._patience:
                    reply = failed(out.message, GONE, f"node {node} gave no sign of life")
                elif clock > facts.created_at + facts.ttl:
                    text = f"node {node} did not reply within the {facts.ttl:.0f} s to live"
                    reply = failed(out.message, EXPIRED, text)
                else:
                    kept.append(out)
                    continue
                self._came[out.id] = reply
            self._out[node] = kept
