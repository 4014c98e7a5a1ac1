import re

from fedloom.core.types import Client
from fedloom.server.records import OpenRound, Ticket
from fedloom.server.tickets import by_id, new_id, widened

ANN, BOB, CY = (Client(name, 3) for name in ("ann", "bob", "cy"))
TICKETS = {c.id: Ticket(c.id * 8, 4, c.id, attempt=2) for c in (ANN, BOB)}
OPENED = OpenRound(4, 1, 0, (ANN, BOB), TICKETS, False, 100.0)


def test_an_id_is_of_128_bits() -> None:
    ids = {new_id() for _ in range(100)}
    assert len(ids) == 100
    assert all(re.fullmatch("[0-9a-f]{32}", id) for id in ids)


def test_tickets_are_found_by_id() -> None:
    assert by_id(OPENED) == {ticket.id: ticket for ticket in TICKETS.values()}
    assert by_id(None) == {}


def test_who_has_answered_keeps_the_ticket() -> None:
    found = widened(OPENED, [ANN, BOB, CY], [TICKETS["ann"].id], 200.0)
    assert (found.number, found.attempt, found.opened) == (4, 2, 200.0)
    assert found.cohort == (ANN, BOB, CY)
    assert found.tickets["ann"] == TICKETS["ann"]
    for name in ("bob", "cy"):
        again = found.tickets[name]
        assert (again.client, again.round, again.attempt) == (name, 4, 1)
        assert again.id not in by_id(OPENED)


def test_who_is_not_asked_again_has_none() -> None:
    assert widened(OPENED, [CY], [TICKETS["ann"].id], 200.0).tickets.keys() == {"cy"}
