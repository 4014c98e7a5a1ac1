"""Virtual nodes in this process: messages are answered when one's reply is asked for."""

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from fedloom.flower.hosting import GONE, Node, failed
from fedloom.flower.randomness import seeded

__all__ = ["Simulated"]


class Simulated:
    """Nodes by number, from 1 (`fedloom.flower.grid.Carrier`).

    One works at a time, also where an app asks from many threads. What a ClientApp draws from
    global generators depends on the seed and the message alone.

    Args:
        app: the ClientApp.
        nodes: how many.
        run_config: as the app's config says.
        node_config: what every node's config has besides ``partition-id`` and ``num-partitions``.
        seed: of global generators.
    """

    def __init__(
        self,
        app: Any,
        nodes: int,
        run_config: Mapping[str, Any],
        node_config: Mapping[str, Any] | None = None,
        *,
        seed: int = 0,
    ) -> None:
        self._nodes: dict[int, Node] = {}
        self._waiting: dict[str, Any] = {}
        self._came: dict[str, Any] = {}
        self._seed, self._lock = seed, threading.Lock()
        for place in range(nodes):
            own = {**(node_config or {}), "partition-id": place, "num-partitions": nodes}
            self._nodes[place + 1] = Node(app, place + 1, own, run_config)

    def nodes(self) -> Sequence[int]:
        """All of them, always."""
        return list(self._nodes)

    def send(self, message: Any) -> None:
        """Keep a message until its reply is asked for."""
        with self._lock:
            self._waiting[message.metadata.message_id] = message

    def replies(self, ids: Iterable[str]) -> Iterator[Any]:
        """Answer messages, one after the other, in the order in which they were sent.

        Those that were sent before one that is asked for are answered before it, whether anybody
        asks for their replies or not.
        """
        wanted = set(ids)
        while wanted:
            with self._lock:
                found = [self._came.pop(number) for number in wanted & self._came.keys()]
                if not found:
                    if wanted.isdisjoint(self._waiting):
                        return
                    message = self._waiting.pop(next(iter(self._waiting)))
                    self._came[message.metadata.message_id] = self._answer(message)
            wanted -= {reply.metadata.reply_to_message_id for reply in found}
            yield from found

    def withdraw(self, ids: Iterable[str]) -> None:
        """Forget messages that nobody asks for any more."""
        with self._lock:
            for number in ids:
                self._waiting.pop(number, None)
                self._came.pop(number, None)

    def is_over(self, ids: Iterable[str]) -> bool:
        """Never: all are answered."""
        return False

    def kept(self, node: int) -> bytes:
        """What a node has in its context."""
        return self._nodes[node].kept() if node in self._nodes else b""

    def restore(self, node: int, data: bytes) -> None:
        """Give a node what it had in its context."""
        self._nodes[node].restore(data, f"node {node}")

    def _answer(self, message: Any) -> Any:
        number = message.metadata.dst_node_id
        if number not in self._nodes:
            return failed(message, GONE, f"there is no node {number}")
        with seeded(self._seed, "node", message.metadata.message_id):
            return self._nodes[number].answer(message)
