"""Whatever is sent in whatever order: the ledger answers as a few dictionaries would."""

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from fedloom.core.errors import TransferError
from fedloom.core.types import Client, ClientId
from fedloom.server.database import Database
from fedloom.server.ledger import Ledger
from fedloom.server.records import Entry, Place, Result, Ticket

CLIENTS = [Client(name, 1) for name in "abcd"]
NAMES = st.sampled_from("abcd")
SHAS = st.sampled_from(["11", "22"])


@dataclass(frozen=True)
class Kept:
    """What the model remembers of a result."""

    seq: int
    ticket: Ticket
    sha256: str


class LedgerMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.database = Database.open(Path(self.folder.name), exclusive=True)
        self.ledger = Ledger(self.database)
        self.number, self.attempt, self.closed = 0, 0, False
        self.tickets: dict[str, Ticket] = {}
        self.evaluating: dict[str, Ticket] = {}
        self.dead: list[Ticket] = []
        self.kept: dict[str, Kept] = {}
        self.refused: list[tuple[int, ClientId]] = []
        self.last = 0

    @initialize()
    def first(self) -> None:
        self.next_round()

    @rule(again=st.booleans())
    def next_round(self, again: bool = False) -> None:
        self.dead += [*self.tickets.values(), *self.evaluating.values()]
        again = again and self.number > 0
        self.number += not again
        self.attempt = self.attempt + 1 if again else 1
        self.tickets = self.ledger.begin(self.number, self.attempt, 0, CLIENTS)
        self.closed, self.kept, self.evaluating = False, {}, {}

    @rule()
    def close(self) -> None:
        self.ledger.close(self.number)
        self.closed = True

    @rule()
    def reopen(self) -> None:
        self.ledger.flush()
        self.database.close()
        self.database = Database.open(Path(self.folder.name), exclusive=True)
        self.ledger = Ledger(self.database)
        self.dead += self.evaluating.values()
        self.evaluating = {}

    @rule(sent=st.lists(st.tuples(NAMES, SHAS), min_size=1, max_size=6), durable=st.booleans())
    def record(self, sent: list[tuple[str, str]], durable: bool) -> None:
        entries = [entry(self.tickets[name], sha256) for name, sha256 in sent]
        outcomes = self.ledger.record(entries, durable=durable)
        for one, outcome in zip(entries, outcomes, strict=True):
            assert answer(outcome) == self.expected(one)

    def expected(self, sent: Entry) -> int | str:
        """The model's answer, after which it remembers."""
        name, sha256 = sent.ticket.client, sent.result.sha256
        if name in self.kept:
            kept = self.kept[name]
            return kept.seq if kept.sha256 == sha256 else "duplicate"
        if self.closed:
            return "round-over"
        self.last += 1
        self.kept[name] = Kept(self.last, sent.ticket, sha256)
        return self.last

    @rule(name=NAMES, other=NAMES, sha256=SHAS)
    def others_ticket(self, name: str, other: str, sha256: str) -> None:
        if name != other:
            stolen = replace(self.tickets[other], client=name)
            (outcome,) = self.ledger.record([entry(stolen, sha256)])
            assert answer(outcome) == "ticket-other"

    @precondition(lambda self: self.dead)
    @rule(data=st.data(), sha256=SHAS)
    def dead_ticket(self, data: st.DataObject, sha256: str) -> None:
        ticket = data.draw(st.sampled_from(self.dead))
        (outcome,) = self.ledger.record([entry(ticket, sha256)])
        over = ticket.round != self.number
        assert answer(outcome) == ("round-over" if over else "ticket-unknown")

    @rule(name=NAMES)
    def reissue(self, name: str) -> None:
        before = self.tickets[name]
        if name in self.kept:
            with pytest.raises(TransferError, match="this task is done"):
                self.ledger.reissue(before)
            return
        again = self.ledger.reissue(before)
        assert again == replace(before, id=again.id, attempt=before.attempt + 1)
        self.dead.append(before)
        self.tickets[name] = again

    @rule(name=NAMES)
    def evaluate(self, name: str) -> None:
        ticket = self.ledger.issue(name, "evaluate")
        self.evaluating[ticket.id] = ticket

    @rule(name=NAMES)
    def refuse(self, name: str) -> None:
        self.ledger.refuse(name, self.number, "norm", "too long")
        self.refused.append((self.number, name))

    @invariant()
    def it_agrees_with_the_model(self) -> None:
        opened = self.ledger.current()
        if opened is None:
            return
        assert (opened.number, opened.attempt) == (self.number, self.attempt)
        assert opened.closed == self.closed
        assert opened.tickets == self.tickets
        written = self.ledger.written(self.number)
        found = {w.ticket.client: Kept(w.seq, w.ticket, w.result.sha256) for w in written}
        assert found == self.kept
        assert [w.seq for w in written] == sorted(kept.seq for kept in self.kept.values())

    @invariant()
    def memory_answers_the_same(self) -> None:
        for ticket in (*self.tickets.values(), *self.evaluating.values()):
            assert self.ledger.ticket(ticket.id) == ticket
        for ticket in self.dead:
            assert self.ledger.ticket(ticket.id) is None
        for name, ticket in self.tickets.items():
            kept = self.kept.get(name)
            assert self.ledger.receipt(ticket.id) == (kept.seq if kept else None)
        here = [name for number, name in self.refused if number == self.number]
        assert [r.client for r in self.ledger.refusals(self.number)] == here

    def teardown(self) -> None:
        self.database.close()
        self.folder.cleanup()


def entry(ticket: Ticket, sha256: str) -> Entry:
    return Entry(ticket, Result(1, sha256), Place("00000001.segment", 0, 1))


def answer(outcome: int | TransferError) -> int | str:
    return outcome.code if isinstance(outcome, TransferError) else outcome


TestLedger = LedgerMachine.TestCase
TestLedger.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)
