"""A Flower ``Grid`` over whatever carries messages: the simulator, or our server."""

import hashlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from types import SimpleNamespace
from typing import Any, Protocol

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from fedloom.flower.watching import Sent

__all__ = ["AppGrid", "Carrier"]

_LOOK = 0.02


class Carrier(Protocol):
    """What brings messages to nodes and their replies back. Threads may share it."""

    def nodes(self) -> Sequence[int]:
        """Who is there."""
        ...

    def send(self, message: Any) -> None:
        """Take a message, which has its id."""
        ...

    def replies(self, ids: Iterable[str]) -> Iterable[Any]:
        """The replies to messages of these ids that have come and were not asked for before.

        Where none will come, the reply is an error that says why.
        """
        ...

    def withdraw(self, ids: Iterable[str]) -> None:
        """Forget messages whose replies nobody will ask for."""
        ...

    def is_over(self, ids: Iterable[str]) -> bool:
        """Whether it is known that none of these will be answered, and nobody is to wait."""
        ...

    def kept(self, node: int) -> bytes:
        """What a node has in its context, where this process has to keep it; or nothing."""
        ...

    def restore(self, node: int, data: bytes) -> None:
        """Give a node what it had in its context."""
        ...


class AppGrid(Grid):  # type: ignore[misc, unused-ignore]  # untyped here
    """Sends a ServerApp's messages by a carrier. Threads may share it, as older apps do.

    A message's id says which of its kind it is, so that it is the same when the app runs again.

    Args:
        carrier: of messages.
        watch: given what was sent and the replies of each exchange.
        run: number of the run.
    """

    def __init__(
        self,
        carrier: Carrier,
        watch: Callable[[Sequence[Sent], Sequence[Any]], None],
        *,
        run: int = 1,
    ) -> None:
        self._carrier, self._watch = carrier, watch
        self._run = SimpleNamespace(run_id=run)
        self._lock = threading.Lock()
        self._sent: dict[str, Sent] = {}
        self._counts = Counter[str]()

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
        return [self._push(message) for message in messages]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """The replies that have come."""
        found = list(self._carrier.replies(message_ids))
        asked = self._forget(reply.metadata.reply_to_message_id for reply in found)
        self._tell(asked, found)
        return found

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Send messages, and wait for the replies; some strategies go through them twice.

        What has not come after `timeout` seconds is not waited for any more, and not worked on.
        """
        until = None if timeout is None else time.monotonic() + timeout
        waiting = dict.fromkeys(self.push_messages(messages))
        ids, found = list(waiting), list[Message]()
        while waiting and (until is None or time.monotonic() < until):
            came = list(self._carrier.replies(list(waiting)))
            for reply in came:
                del waiting[reply.metadata.reply_to_message_id]
            found += came
            if not came:
                if self._carrier.is_over(waiting):
                    break
                time.sleep(_LOOK)
        if waiting:
            self._carrier.withdraw(list(waiting))
        self._tell(self._forget(ids), found)
        return found

    def _push(self, message: Any) -> str:
        facts = message.metadata.__dict__
        kind = f"{message.metadata.message_type}\0{message.metadata.group_id}"
        kind = f"{self._run.run_id}\0{kind}\0{message.metadata.dst_node_id}"
        with self._lock:
            self._counts[kind] += 1
            text = f"{kind}\0{self._counts[kind]}"
            number = hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
            self._sent[number] = Sent.of(message)
        facts["_message_id"], facts["_run_id"], facts["_src_node_id"] = number, self._run.run_id, 1
        self._carrier.send(message)
        return number

    def _forget(self, ids: Iterable[str]) -> list[Sent]:
        with self._lock:
            return [self._sent.pop(number) for number in list(ids)]

    def _tell(self, asked: Sequence[Sent], found: Sequence[Any]) -> None:
        if asked:
            with self._lock:
                self._watch(asked, found)
