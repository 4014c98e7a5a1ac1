"""Virtual nodes in this process: a message is answered when its reply is asked for."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fedloom.flower.hosting import Node

__all__ = ["Simulated"]


class Simulated:
    """Nodes by number, from 1 (`fedloom.flower.grid.Carrier`).

    Args:
        app: the ClientApp.
        nodes: how many.
        run_config: as the app's config says.
        node_config: what every node's config has besides ``partition-id`` and ``num-partitions``.
    """

    def __init__(
        self,
        app: Any,
        nodes: int,
        run_config: Mapping[str, Any],
        node_config: Mapping[str, Any] | None = None,
    ) -> None:
        self._nodes: dict[int, Node] = {}
        self._waiting: dict[str, Any] = {}
        for place in range(nodes):
            own = {**(node_config or {}), "partition-id": place, "num-partitions": nodes}
            self._nodes[place + 1] = Node(app, place + 1, own, run_config)

    def nodes(self) -> Sequence[int]:
        """All of them, always."""
        return list(self._nodes)

    def send(self, message: Any) -> None:
        """Keep a message until its reply is asked for."""
        self._waiting[message.metadata.message_id] = message

    def replies(self, ids: Iterable[str]) -> list[Any]:
        """Answer messages, one after the other, in the order in which they were sent."""
        wanted = set(ids)
        asked = [number for number in self._waiting if number in wanted]
        messages = [self._waiting.pop(number) for number in asked]
        return [self._nodes[m.metadata.dst_node_id].answer(m) for m in messages]
