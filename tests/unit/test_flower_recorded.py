"""A ServerApp that is started again: what it is told, and what goes to the nodes."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pytest

pytest.importorskip("flwr")

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict

from fedloom.core.errors import RunError
from fedloom.flower.grid import AppGrid
from fedloom.flower.journal import Journal
from fedloom.flower.likeness import Likenesses
from fedloom.flower.recorded import Recorded
from fedloom.strategies.flower.hosting import identified


class Nodes:
    """Nodes that answer by what they were sent and how often they were asked; 9 never does."""

    def __init__(self) -> None:
        self.sent: dict[str, Any] = {}
        self.worked = list[int]()
        self.contexts = dict[int, bytes]()
        self.who = [1, 2]

    def nodes(self) -> Sequence[int]:
        return self.who

    def send(self, message: Any) -> None:
        self.sent[message.metadata.message_id] = message

    def replies(self, ids: Iterable[str]) -> Iterable[Any]:
        for number in [n for n in self.sent if n in set(ids)]:
            message = self.sent[number]
            node = message.metadata.dst_node_id
            if node != 9:
                del self.sent[number]
                self.worked.append(node)
                self.contexts[node] = self.contexts.get(node, b"") + b"."
                content = RecordDict({"m": MetricRecord({"n": len(self.contexts[node])})})
                reply = Message(content, reply_to=message)
                reply.metadata.__dict__["_src_node_id"] = node
                yield reply

    def withdraw(self, ids: Iterable[str]) -> None:
        for number in ids:
            self.sent.pop(number, None)

    def is_over(self, ids: Iterable[str]) -> bool:
        return False

    def kept(self, node: int) -> bytes:
        return self.contexts.get(node, b"")

    def restore(self, node: int, data: bytes) -> None:
        self.contexts[node] = data


def message(node: int, value: float = 1.0, **config: Any) -> Any:
    identified()
    content = {
        "a": ArrayRecord([np.full(4, value, dtype=np.float32)]),
        "c": ConfigRecord({"text": "x", **config}),
    }
    return Message(RecordDict(content), dst_node_id=node, message_type="train")


class Started(Protocol):
    def __call__(
        self, nodes: Nodes, note: Callable[[str], None] = ..., most: int = ...
    ) -> AppGrid: ...


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Started]:
    """Starts the ServerApp of a test, again where it was started before."""
    journals = list[Journal]()

    def start(
        nodes: Nodes, note: Callable[[str], None] = lambda text: None, most: int = 10**6
    ) -> AppGrid:
        identified()
        for journal in journals:
            journal.close()
        journals.append(Journal(tmp_path / "journal", most=most))
        return AppGrid(Recorded(nodes, journals[-1], note), lambda asked, came: None)

    yield start
    for journal in journals:
        journal.close()


def counts(replies: Iterable[Any]) -> list[tuple[int, int]]:
    return [(reply.metadata.src_node_id, reply.content["m"]["n"]) for reply in replies]


def test_what_was_told_is_told_again_without_the_nodes(started: Started) -> None:
    one = Nodes()
    grid = started(one)
    first = counts(grid.send_and_receive([message(1), message(2)]))
    one.who = [1, 2, 3]
    there = list(grid.get_node_ids())
    second = counts(grid.send_and_receive([message(3), message(1)]))

    two = Nodes()
    grid = started(two)
    assert counts(grid.send_and_receive([message(1), message(2)])) == first
    assert list(grid.get_node_ids()) == there == [1, 2, 3]
    assert counts(grid.send_and_receive([message(3), message(1)])) == second
    assert two.worked == []
    assert two.contexts == {1: b"..", 2: b".", 3: b"."}
    # From here on it is live.
    assert list(grid.get_node_ids()) == [1, 2]
    assert counts(grid.send_and_receive([message(1)])) == [(1, 3)]
    assert two.worked == [1]


def test_what_a_kill_cut_goes_to_the_nodes(started: Started) -> None:
    one = Nodes()
    grid = started(one)
    ids = list(grid.push_messages([message(1), message(9), message(2)]))
    assert counts(grid.pull_messages(ids[:1])) == [(1, 1)]

    two = Nodes()
    grid = started(two)
    again = list(grid.push_messages([message(1), message(9), message(2)]))
    assert again == ids
    assert [m.metadata.dst_node_id for m in two.sent.values()] == [9, 2]
    assert counts(grid.pull_messages(ids)) == [(1, 1)]
    assert counts(grid.pull_messages(ids)) == [(2, 1)]
    assert two.worked == [2]


def test_who_did_not_answer_in_time_is_not_waited_for_again(started: Started) -> None:
    one = Nodes()
    grid = started(one)
    assert counts(grid.send_and_receive([message(9), message(1)], timeout=0.05)) == [(1, 1)]
    assert one.sent == {}
    grid.push_messages([message(1)])

    two = Nodes()
    grid = started(two)
    assert counts(grid.send_and_receive([message(9), message(1)], timeout=1e9)) == [(1, 1)]
    assert two.sent == {}


def test_what_nobody_asked_the_reply_of_is_not_done_twice(started: Started) -> None:
    one = Nodes()
    grid = started(one)
    (early,) = grid.push_messages([message(1)])
    list(one.replies([early]))  # nodes answer in the order in which they are asked
    assert counts(grid.send_and_receive([message(1), message(2)])) == [(1, 2), (2, 1)]

    two = Nodes()
    grid = started(two)
    assert list(grid.push_messages([message(1)])) == [early]
    assert counts(grid.send_and_receive([message(1), message(2)])) == [(1, 2), (2, 1)]
    assert (two.worked, two.contexts) == ([], {1: b"..", 2: b"."})
    # Its reply is lost with the process: who asks for it now has it done again.
    assert counts(grid.pull_messages([early])) == [(1, 3)]


@pytest.mark.parametrize(
    "other", [message(1, 2.0), message(1, text="y"), message(2), message(1, rate=0.5)]
)
def test_an_app_that_does_something_else_is_stopped(other: Any, started: Started) -> None:
    grid = started(Nodes())
    grid.send_and_receive([message(1)])

    grid = started(Nodes())
    with pytest.raises(RunError, match="sends another message than before: 'train' to node"):
        grid.push_messages([other])


def test_sums_in_another_order_are_the_same_message(started: Started) -> None:
    grid = started(Nodes())
    grid.send_and_receive([message(1, 1.0, rate=0.1)])

    notes = list[str]()
    grid = started(Nodes(), notes.append)
    assert len(list(grid.send_and_receive([message(1, 1.0 + 1e-6, rate=0.1)]))) == 1
    assert notes == ["the app's sums differ in the last bits from those before it was ended"]


def test_a_journal_that_is_too_large_is_given_up_and_said(started: Started) -> None:
    notes, nodes = list[str](), Nodes()
    grid = started(nodes, notes.append, most=600)
    for _ in range(3):
        grid.send_and_receive([message(1)])

    assert nodes.worked == [1, 1, 1]
    assert len(notes) == 1
    assert "became too large, or the disk is full: the run cannot be resumed any more" in notes[0]


def test_likeness_tells_contents_apart() -> None:
    identified()
    make = Likenesses()
    one, same = make.of(message(1, 1.0, rate=0.5)), make.of(message(1, 1.0, rate=0.5))
    close, other = make.of(message(1, 1.0001, rate=0.5)), make.of(message(1, 1.0, rate=0.6))

    assert one == same
    assert one.exact != close.exact
    assert one.is_close(close)
    assert not one.is_close(other)
    assert not one.is_close(make.of(message(1, 1.0, rate=0.5, more=b"\x00")))
    assert type(one).read(one.written()) == one
