"""A round and its results as rows of the database, and back."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from sqlite3 import Connection
from typing import Any

from fedloom.core.errors import RunError
from fedloom.core.types import Client, ClientId, Cost
from fedloom.server.database import Database
from fedloom.server.records import Entry, OpenRound, Place, Result, Ticket, Written

__all__ = [
    "PLACES",
    "count",
    "insert_cohort",
    "insert_refusals",
    "insert_result",
    "insert_round",
    "load_result",
    "load_round",
    "load_written",
]

_COLUMNS = (
    *("round", "kind", "client", "ticket", "attempt", "size", "sha256", "codec"),
    *("num_examples", "metrics", "cost", "segment", "start", "length"),
)
_NAMES = ", ".join(_COLUMNS)
_INSERT = f"INSERT INTO results ({_NAMES}) VALUES ({', '.join('?' * len(_COLUMNS))})"
PLACES = "SELECT segment, start, length FROM results"
_NO_COST = Cost()
_REFUSALS_KEPT = 10_000


def insert_round(connection: Connection, opened: OpenRound) -> None:
    """Write a round down with its cohort and their tickets."""
    connection.execute(
        "INSERT INTO rounds (number, attempt, stage, opened) VALUES (?, ?, ?, ?)",
        (opened.number, opened.attempt, opened.stage, opened.opened),
    )
    insert_cohort(connection, opened)


def insert_cohort(connection: Connection, opened: OpenRound) -> None:
    """Write down who is asked in a round, with their tickets."""
    rows = (
        (opened.number, i, c.id, c.num_examples, c.tier, c.memory, ticket.id, ticket.attempt)
        for i, c in enumerate(opened.cohort)
        for ticket in (opened.tickets[c.id],)
    )
    connection.executemany("INSERT INTO cohort VALUES (?, ?, ?, ?, ?, ?, ?, ?)", rows)


def load_round(database: Database) -> OpenRound | None:
    """The round that is written down, if there is one.

    Raises:
        RunError: there are several: fedloom did not write this.
    """
    rounds = database.rows("SELECT number, attempt, stage, closed, opened FROM rounds")
    if not rounds:
        return None
    if len(rounds) > 1:
        raise RunError(f"{database.folder}: {len(rounds)} rounds are open; 1 can be")
    number, attempt, stage, closed, began = rounds[0]
    sql = "SELECT client, num_examples, tier, memory, ticket, attempt FROM cohort"
    rows = database.rows(f"{sql} ORDER BY position")
    cohort = tuple(Client(*client) for *client, _, _ in rows)
    tickets: dict[ClientId, Ticket] = {
        client.id: Ticket(id, number, client.id, attempt=tries)
        for client, (*_, id, tries) in zip(cohort, rows, strict=True)
    }
    return OpenRound(number, attempt, stage, cohort, tickets, bool(closed), began)


def insert_result(connection: Connection, entry: Entry) -> int:
    """Write a result down; its number is returned."""
    ticket, result, place = entry.ticket, entry.result, entry.place
    cost = "" if result.cost == _NO_COST else json.dumps(asdict(result.cost))
    metrics = json.dumps(dict(result.metrics)) if result.metrics else ""
    row = (
        *(ticket.round, ticket.kind, ticket.client, ticket.id, ticket.attempt),
        *(result.size, result.sha256, result.codec, result.num_examples, metrics, cost),
        *(place.segment, place.offset, place.length),
    )
    return int(connection.execute(_INSERT, row).lastrowid or 0)


def load_written(database: Database, number: int) -> list[Written]:
    """The results of a round in the order in which they were written."""
    sql = f"SELECT seq, {_NAMES} FROM results WHERE round = ? ORDER BY seq"
    return [_written(row) for row in database.rows(sql, (number,))]


def load_result(database: Database, seq: int) -> Written:
    """One result.

    Raises:
        RunError: there is none of that number.
    """
    found = database.rows(f"SELECT seq, {_NAMES} FROM results WHERE seq = ?", (seq,))
    if not found:
        raise RunError(f"{database.folder}: result {seq} is not in the ledger")
    return _written(found[0])


def _written(row: tuple[Any, ...]) -> Written:
    seq, round, kind, client, id, attempt, size, sha256, codec, examples, *rest = row
    metrics, cost, segment, start, length = rest
    result = Result(
        *(size, sha256, codec, examples),
        json.loads(metrics) if metrics else {},
        Cost(**json.loads(cost)) if cost else _NO_COST,
    )
    ticket = Ticket(id, round, client, kind, attempt)
    return Written(seq, ticket, result, Place(segment, start, length))


def insert_refusals(
    connection: Connection, refusals: Sequence[tuple[int, ClientId, str, str]]
) -> None:
    """Write down refusals (round, client, code, reason); the oldest of very many go."""
    if not refusals:
        return
    sql = "INSERT INTO refusals (round, client, code, reason) VALUES (?, ?, ?, ?)"
    connection.executemany(sql, refusals)
    codes = Counter(f"refused:{code}" for _, _, code, _ in refusals)
    count(connection, list(codes.items()))
    sql = "DELETE FROM refusals WHERE id <= (SELECT max(id) FROM refusals) - ?"
    connection.execute(sql, (_REFUSALS_KEPT,))


def count(connection: Connection, counts: Sequence[tuple[str, int]]) -> None:
    """Add to counters that go on for ever."""
    sql = "INSERT INTO counters VALUES (?, ?)"
    sql += " ON CONFLICT (name) DO UPDATE SET value = value + excluded.value"
    connection.executemany(sql, counts)
