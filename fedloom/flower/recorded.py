"""A carrier whose replies are written down, so that a ServerApp can be started again.

A ServerApp is a function that runs for hours and cannot be saved; but what it does follows from
what it is told. Started again, it is told the same again, out of the journal, without the nodes,
until it is where it was; then it goes on with them.
"""

import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from fedloom.core.errors import RunError
from fedloom.flower.grid import Carrier
from fedloom.flower.journal import Journal
from fedloom.flower.likeness import Likeness, Likenesses
from fedloom.flower.wire import packed, unpacked

__all__ = ["Recorded"]


Place = tuple[int, int]
_PATIENCE = 10.0


@dataclass
class _Past:
    """What the journal says.

    Attributes:
        sent: what was sent, by id, in order.
        batches: replies that were given together, by id; and how many messages were sent by then.
        nodes: who was there, the last time that it was asked after so many messages.
        settled: messages that were answered, or withdrawn.
        withdrawn: those that nobody waits for.
        done: messages that were answered, since a later one to their node was, but whose reply had
            not been asked for.
    """

    sent: dict[str, Likeness] = field(default_factory=dict)
    batches: list[tuple[dict[str, Place], int]] = field(default_factory=list)
    nodes: dict[int, list[int]] = field(default_factory=dict)
    settled: set[str] = field(default_factory=set)
    withdrawn: set[str] = field(default_factory=set)
    done: set[str] = field(default_factory=set)


class Recorded:
    """Writes down what passes, and gives again what passed before (`fedloom.flower.grid.Carrier`).

    Args:
        carrier: of messages.
        journal: of this run; what is in it is given first.
        note: told what the user should know.
    """

    def __init__(self, carrier: Carrier, journal: Journal, note: Callable[[str], None]) -> None:
        self._carrier, self._journal, self._note = carrier, journal, note
        self._lock = threading.Condition()  # around a lock that its thread may take again
        self._thread = threading.get_ident()
        self._likenesses, self._roughly = Likenesses(), False
        self._past, self._count, self._batch = _Past(), 0, 0
        self._told: Sequence[int] = ()
        self._contexts: dict[int, bytes] = {}
        self._held: dict[str, Any] = {}
        self._broken: RunError | None = None
        self._read()

    def check(self) -> None:
        """Find a ServerApp that has gone on where it was to be stopped, as older ones do.

        Raises:
            RunError: it has.
        """
        if self._broken is not None:
            raise self._broken

    @property
    def _behind(self) -> bool:
        """Whether the ServerApp has sent less than before."""
        return self._count < len(self._past.sent)

    def nodes(self) -> Sequence[int]:
        """Who is there, or was there then."""
        with self._lock:
            places = [place for place in self._past.nodes if place <= self._count]
            if self._behind and places:
                return list(self._past.nodes[max(places)])
            found = list(self._carrier.nodes())
            if found != self._told and not self._behind:
                self._told = found
                self._add({"nodes": found})
            return found

    def send(self, message: Any) -> None:
        """Send a message, if its reply is not in the journal.

        Raises:
            RunError: the ServerApp sends something else than before.
        """
        number = message.metadata.message_id
        with self._lock:
            self.check()
            found = self._likenesses.of(message)
            if number not in self._past.sent and threading.get_ident() != self._thread:
                # An older app's threads may come in another order: those from before come first.
                self._lock.wait_for(lambda: not self._behind, timeout=_PATIENCE)
            if self._behind:
                self._check(message, found)
                self._count += 1
                self._lock.notify_all()
                if number in self._past.done:
                    self._held[number] = message
                if number in self._past.settled | self._past.done:
                    return
            else:
                node = message.metadata.dst_node_id
                self._add({"sent": number, "node": node, **found.written()})
        self._carrier.send(message)

    def replies(self, ids: Iterable[str]) -> list[Any]:
        """Replies of the journal, as they were given then; or those that come."""
        wanted = set(ids)
        with self._lock:
            found = self._again(wanted)
            if found or self._behind:
                return found
            self._batch += 1
            batch = self._batch
            again = [self._held.pop(number) for number in wanted & self._held.keys()]
        for message in again:
            self._carrier.send(message)
        for reply in self._carrier.replies(wanted):
            with self._lock:
                self._write(reply, batch)
            found.append(reply)
        return found

    def withdraw(self, ids: Iterable[str]) -> None:
        """Forget messages, now and when the ServerApp is started again."""
        ids = list(ids)
        with self._lock:
            if not self._behind and not self._past.withdrawn.issuperset(ids):
                self._add({"withdrawn": ids})
        self._carrier.withdraw(ids)

    def is_over(self, ids: Iterable[str]) -> bool:
        """Whether messages were waited for in vain before."""
        with self._lock:
            return self._past.withdrawn.issuperset(ids)

    def kept(self, node: int) -> bytes:
        """As the carrier has it."""
        return self._carrier.kept(node)

    def restore(self, node: int, data: bytes) -> None:
        """As the carrier does it."""
        self._carrier.restore(node, data)

    def _again(self, wanted: set[str]) -> list[Any]:
        for replies, sent in self._past.batches:
            if sent > self._count:
                break
            given = [number for number in replies if number in wanted]
            if given:
                return [unpacked(self._journal.bytes_of(replies.pop(number))) for number in given]
        return []

    def _check(self, message: Any, found: Likeness) -> None:
        """Find a ServerApp that does something else than before."""
        before = self._past.sent.get(message.metadata.message_id)
        if before is not None and (before.exact == found.exact or before.is_close(found)):
            if before.exact != found.exact and not self._roughly:
                self._roughly = True
                self._note("the app's sums differ in the last bits from those before it was ended")
            return
        about = f"{message.metadata.message_type!r} to node {message.metadata.dst_node_id}"
        what = "says something else" if before else "was not sent"
        text = f"started again, the ServerApp sends another message than before: {about} {what}"
        more = "its code, its files or its random numbers are others; --overwrite starts afresh"
        self._broken = RunError(f"{self._journal.path}: {text}; {more}")
        raise self._broken

    def _write(self, reply: Any, batch: int) -> None:
        number, node = reply.metadata.reply_to_message_id, reply.metadata.src_node_id
        context = self._carrier.kept(node)
        if context != self._contexts.get(node, b""):
            self._contexts[node] = context
            self._add({"context": node, "of": number}, context)
        self._add({"reply": number, "batch": batch}, packed(reply), durable=True)

    def _add(self, line: dict[str, Any], data: bytes = b"", *, durable: bool = False) -> None:
        if self._journal.kept and not self._journal.add(line, data, durable=durable):
            why = "became too large, or the disk is full"
            self._note(f"{self._journal.path} {why}: the run cannot be resumed any more")

    def _read(self) -> None:
        """Take in the journal; a context is given back where its reply is there too."""
        past, waiting, contexts = self._past, dict[str, tuple[int, Place]](), dict[int, Place]()
        queues, nodes = defaultdict[int, list[str]](list), dict[str, int]()
        for line, place in self._journal.entries():
            if "sent" in line:
                past.sent[line["sent"]] = Likeness.read(line)
                nodes[line["sent"]] = line["node"]
                queues[line["node"]].append(line["sent"])
            elif "nodes" in line:
                self._told = past.nodes[len(past.sent)] = line["nodes"]
            elif "withdrawn" in line:
                past.settled.update(line["withdrawn"])
                past.withdrawn.update(line["withdrawn"])
            elif "context" in line:
                waiting[line["of"]] = line["context"], place
            else:
                number = line["reply"]
                if line["batch"] != self._batch or not past.batches:
                    past.batches.append(({}, len(past.sent)))
                self._batch = line["batch"]
                past.batches[-1][0][number] = place
                past.settled.add(number)
                queue = queues[nodes[number]]
                if number in queue:  # whatever came before it was answered before it
                    past.done.update(queue[: queue.index(number)])
                    del queue[: queue.index(number) + 1]
                if number in waiting:
                    node, where = waiting.pop(number)
                    contexts[node] = where
        past.done -= past.settled
        for node, place in contexts.items():
            self._contexts[node] = self._journal.bytes_of(place)
            self._carrier.restore(node, self._contexts[node])
