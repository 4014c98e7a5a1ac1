from dataclasses import replace

import pytest

from fedloom.core.errors import RunError, TransferError
from fedloom.core.types import Client, Cost, Refusal
from fedloom.server.database import Database
from fedloom.server.ledger import Ledger
from fedloom.server.records import Entry, OpenRound, Place, Result, Ticket, Written

COHORT = [Client("ann", 10), Client("bob", 20), Client("cy", 30, "phone", 2**31)]


@pytest.fixture
def ledger(database: Database) -> Ledger:
    return Ledger(database, clock=lambda: 1000.0)


def entry(ticket: Ticket, sha256: str = "aa", offset: int = 0) -> Entry:
    result = Result(5, sha256, "int8", 10, {"loss": 0.5}, Cost(bytes_up=5, seconds=1.5))
    return Entry(ticket, result, Place("00000001.segment", offset, 5))


def code(outcome: int | TransferError) -> str:
    assert isinstance(outcome, TransferError)
    return outcome.code


def test_there_is_no_round_before_the_first(ledger: Ledger) -> None:
    assert ledger.current() is None
    assert ledger.ticket("x") is None
    with pytest.raises(TransferError, match="no round is open") as caught:
        ledger.issue("ann", "evaluate")
    assert caught.value.code == "round-over"


def test_a_round_has_one_ticket_for_each_of_its_cohort(ledger: Ledger) -> None:
    tickets = ledger.begin(3, 2, 1, COHORT)
    assert list(tickets) == ["ann", "bob", "cy"]
    assert len({ticket.id for ticket in tickets.values()}) == 3
    assert all(len(ticket.id) == 32 for ticket in tickets.values())
    assert tickets["bob"] == Ticket(tickets["bob"].id, 3, "bob", "train", 1)
    assert ledger.current() == OpenRound(3, 2, 1, tuple(COHORT), tickets, False, 1000.0)
    assert ledger.ticket(tickets["cy"].id) == tickets["cy"]


def test_everything_is_there_after_opening_again(ledger: Ledger, database: Database) -> None:
    tickets = ledger.begin(1, 1, 0, COHORT)
    again = ledger.reissue(tickets["bob"])
    assert ledger.record([entry(tickets["ann"])]) == [1]
    ledger.close(1)

    other = Ledger(database)
    assert other.current() == ledger.current()
    assert other.ticket(again.id) == again == replace(tickets["bob"], id=again.id, attempt=2)
    assert other.receipt(tickets["ann"].id) == 1
    assert other.written(1) == ledger.written(1)


def test_results_come_back_as_they_were_written(ledger: Ledger) -> None:
    tickets = ledger.begin(1, 1, 0, COHORT)
    first, second = entry(tickets["cy"]), entry(tickets["ann"], "bb", 5)
    bare = Entry(tickets["bob"], Result(0, ""), Place("", 0, 0))
    assert ledger.record([first, second]) == [1, 2]
    assert ledger.record([bare], durable=False) == [3]
    assert ledger.written(1) == [
        Written(seq, e.ticket, e.result, e.place) for seq, e in enumerate((first, second, bare), 1)
    ]
    assert ledger.places() == [first.place, second.place, bare.place]
    assert ledger.written(2) == []
    assert ledger.counters() == {"bytes": 10, "results": 3}


def test_the_same_bytes_get_the_same_number_and_others_none(ledger: Ledger) -> None:
    tickets = ledger.begin(1, 1, 0, COHORT)
    ann = entry(tickets["ann"])
    assert ledger.record([ann, ann]) == [1, 1]
    same, other = ledger.record([entry(tickets["ann"], offset=9), entry(tickets["ann"], "bb")])
    assert same == 1
    assert code(other) == "duplicate"
    assert [w.place for w in ledger.written(1)] == [ann.place]


def test_what_is_known_before_anything_is_written(ledger: Ledger) -> None:
    tickets = ledger.begin(1, 1, 0, COHORT)
    assert ledger.answer(tickets["ann"], "aa") is None
    ledger.record([entry(tickets["ann"])])
    assert ledger.answer(tickets["ann"], "aa") == 1
    refused = ledger.answer(tickets["ann"], "bb")
    assert refused is not None
    assert code(refused) == "duplicate"


def test_one_that_is_refused_does_not_keep_the_others_out(ledger: Ledger) -> None:
    tickets = ledger.begin(1, 1, 0, COHORT)
    unknown = Ticket("0" * 32, 1, "ann")
    taken = replace(tickets["bob"], client="ann")
    outcomes = ledger.record([entry(unknown), entry(taken), entry(tickets["ann"])])
    assert [code(o) for o in outcomes[:2]] == ["ticket-unknown", "ticket-other"]
    assert outcomes[2] == 1


def test_a_closed_round_takes_nothing_but_says_its_numbers_again(ledger: Ledger) -> None:
    tickets = ledger.begin(1, 1, 0, COHORT)
    ledger.record([entry(tickets["ann"])])
    ledger.close(1)
    again, late = ledger.record([entry(tickets["ann"]), entry(tickets["bob"])])
    assert again == 1
    assert code(late) == "round-over"
    current = ledger.current()
    assert current is not None
    assert current.closed


def test_the_next_round_forgets_the_one_before_but_not_the_numbers(ledger: Ledger) -> None:
    old = ledger.begin(1, 1, 0, COHORT)
    ledger.record([entry(old["ann"])])
    new = ledger.begin(2, 1, 0, COHORT[:1])
    assert ledger.written(1) == []
    assert ledger.places() == []
    assert ledger.receipt(old["ann"].id) is None
    late, fresh = ledger.record([entry(old["bob"]), entry(new["ann"])])
    assert code(late) == "round-over"
    assert fresh == 2


def test_another_attempt_at_a_round_has_other_tickets(ledger: Ledger) -> None:
    old = ledger.begin(1, 1, 0, COHORT)
    ledger.record([entry(old["ann"])])
    new = ledger.begin(1, 2, 0, COHORT)
    assert code(ledger.record([entry(old["ann"])])[0]) == "ticket-unknown"
    assert ledger.record([entry(new["ann"])]) == [2]


def test_a_ticket_given_anew_replaces_the_one_before(ledger: Ledger) -> None:
    tickets = ledger.begin(1, 1, 0, COHORT)
    again = ledger.reissue(tickets["ann"])
    assert ledger.ticket(tickets["ann"].id) is None
    current = ledger.current()
    assert current is not None
    assert current.tickets["ann"] == again
    with pytest.raises(TransferError, match="no such ticket, or it was replaced"):
        ledger.reissue(tickets["ann"])
    assert ledger.record([entry(again)]) == [1]
    with pytest.raises(TransferError, match="this task is done"):
        ledger.reissue(again)


def test_tickets_to_evaluate_live_in_memory(ledger: Ledger, database: Database) -> None:
    ledger.begin(1, 1, 0, COHORT)
    ticket = ledger.issue("zoe", "evaluate")
    assert ledger.ticket(ticket.id) == ticket == Ticket(ticket.id, 1, "zoe", "evaluate")
    again = ledger.reissue(ticket)
    assert (ledger.ticket(ticket.id), ledger.ticket(again.id)) == (None, again)
    assert Ledger(database).ticket(again.id) is None


def test_refusals_are_written_with_what_comes_next(ledger: Ledger, database: Database) -> None:
    ledger.begin(1, 1, 0, COHORT)
    ledger.refuse("ann", 1, "norm", "too long")
    ledger.refuse("bob", 1, "norm", "too long, too")
    assert Ledger(database).refusals(1) == []
    both = [Refusal("ann", "too long"), Refusal("bob", "too long, too")]
    assert ledger.refusals(1) == both
    ledger.close(1)
    ledger.refuse("cy", 1, "not-finite", "NaN")
    ledger.flush()
    ledger.flush()
    assert ledger.refusals(1) == Ledger(database).refusals(1) == [*both, Refusal("cy", "NaN")]
    assert ledger.counters() == {"refused:norm": 2, "refused:not-finite": 1}


def test_two_rounds_in_one_file_are_nothing_of_ours(ledger: Ledger, database: Database) -> None:
    ledger.begin(1, 1, 0, COHORT)
    with database.writing() as connection:
        connection.execute("INSERT INTO rounds VALUES (2, 1, 0, 0.0, 0)")
    with pytest.raises(RunError, match="2 rounds are open"):
        Ledger(database)
