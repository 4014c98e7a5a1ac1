"""What is written down of the open round: who was asked, and what has come in of whom.

A result counts once it is recorded, and never twice: ``(round, kind, client)`` is unique. The
round before is forgotten when the next begins; its outcome is in the checkpoint by then.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from sqlite3 import Connection

from fedloom.core.errors import TransferError
from fedloom.core.types import Client, ClientId, Refusal
from fedloom.server import rows
from fedloom.server.database import Database
from fedloom.server.failpoints import reach
from fedloom.server.records import Entry, OpenRound, Place, Ticket, Written
from fedloom.server.rows import insert_result, load_result, load_written
from fedloom.server.tickets import Receipt, answered, by_id, new_id, widened

__all__ = ["Ledger"]


class Ledger:
    """The open round in the database, and in memory for those who must not wait.

    Args:
        database: opened as the server's own.
        clock: seconds since 1970.
    """

    def __init__(self, database: Database, *, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._clock = clock
        self._lock = threading.RLock()
        self._refused: deque[tuple[int, ClientId, str, str]] = deque()
        self._open = rows.load_round(database)
        self._tickets = by_id(self._open)
        self._receipts: dict[str, Receipt] = {
            ticket: (seq, sha256)
            for ticket, seq, sha256 in database.rows("SELECT ticket, seq, sha256 FROM results")
        }

    def begin(
        self, number: int, attempt: int, stage: int, cohort: Sequence[Client]
    ) -> dict[ClientId, Ticket]:
        """Forget every other round and open this one, with one ticket to train for each client.

        Raises:
            sqlite3.Error: it could not be written; the round before is still there.
        """
        tickets = {client.id: Ticket(new_id(), number, client.id) for client in cohort}
        opened = OpenRound(number, attempt, stage, tuple(cohort), tickets, False, self._clock())
        with self._lock:
            with self._database.writing() as connection:
                connection.execute("DELETE FROM rounds")
                rows.insert_round(connection, opened)
                waiting = self._write_refusals(connection)
                reach("round-written")
            self._forget(waiting)
            self._open, self._receipts = opened, {}
            self._tickets = by_id(opened)
        reach("round-begun")
        return dict(tickets)

    def clear(self, job: str) -> None:
        """Forget every round; those to come are of `job`, an address."""
        with self._lock:
            with self._database.writing() as connection:
                connection.execute("DELETE FROM rounds")
                connection.execute("UPDATE control SET job = ?", (job,))
            self._open, self._receipts, self._tickets = None, {}, {}

    @property
    def job(self) -> str:
        """Whose rounds these are, as `clear` was told."""
        ((job,),) = self._database.rows("SELECT job FROM control")
        return str(job)

    def widen(self, cohort: Sequence[Client]) -> dict[ClientId, Ticket]:
        """Ask others in the open round too; what is acknowledged of it stays so.

        Args:
            cohort: who is asked now, those among them who have answered. Tickets that brought
                nothing are worth nothing now.

        Raises:
            TransferError: no round is open.
        """
        with self._lock:
            before = self._open
            if before is None:
                raise _over("no round is open")
            opened = widened(before, cohort, self._receipts, self._clock())
            with self._database.writing() as connection:
                sql = "UPDATE rounds SET attempt = ?, opened = ? WHERE number = ?"
                connection.execute(sql, (opened.attempt, opened.opened, opened.number))
                connection.execute("DELETE FROM cohort WHERE round = ?", (before.number,))
                rows.insert_cohort(connection, opened)
                reach("round-widened")
            self._open, self._tickets = opened, by_id(opened)
        return dict(opened.tickets)

    def current(self) -> OpenRound | None:
        """The round that is under way or closed and not yet followed by another."""
        return self._open

    def ticket(self, id: str) -> Ticket | None:
        """The ticket of that id, if it is one of the open round; never waits."""
        return self._tickets.get(id)

    def receipt(self, id: str) -> int | None:
        """The number of the result that answers a ticket, if it is written; never waits."""
        found = self._receipts.get(id)
        return None if found is None else found[0]

    def answer(self, ticket: Ticket, sha256: str) -> int | TransferError | None:
        """What is known of the result of a ticket (its SHA-256 in hex); never waits.

        Returns:
            Its number if it is written; why it is not taken, as `record` says; None if it is due.
        """
        try:
            self._check(ticket)
        except TransferError as error:
            return error
        answer = answered(self._receipts, ticket.id, sha256)
        if answer is None and (self._open is None or self._open.closed):
            return _over(f"round {ticket.round} takes nothing more")
        return answer

    def issue(self, client: ClientId, kind: str) -> Ticket:
        """A ticket for something else than training, kept in memory only.

        Raises:
            TransferError: no round is open; its code is ``round-over``.
        """
        opened = self._open
        if opened is None:
            raise _over("no round is open")
        ticket = Ticket(new_id(), opened.number, client, kind)
        self._tickets[ticket.id] = ticket
        return ticket

    def reissue(self, ticket: Ticket) -> Ticket:
        """A ticket for the next attempt at the same task; the one before is worth nothing now.

        Raises:
            TransferError: the ticket is not one of the open round, or is answered already.
        """
        with self._lock:
            self._check(ticket)
            if ticket.id in self._receipts:
                raise TransferError("this task is done", code="duplicate")
            again = replace(ticket, id=new_id(), attempt=ticket.attempt + 1)
            if self._open is not None and self._open.tickets.get(ticket.client) == ticket:
                with self._database.writing() as connection:
                    connection.execute(
                        "UPDATE cohort SET ticket = ?, attempt = ? WHERE round = ? AND client = ?",
                        (again.id, again.attempt, again.round, again.client),
                    )
                    reach("ticket-written")
                tickets = {**self._open.tickets, again.client: again}
                self._open = replace(self._open, tickets=tickets)
            del self._tickets[ticket.id]
            self._tickets[again.id] = again
        reach("ticket-reissued")
        return again

    def record(
        self, entries: Sequence[Entry], *, durable: bool = True
    ) -> list[int | TransferError]:
        """Write results down in one transaction.

        Args:
            entries: whose payloads are on the disk already.
            durable: with False they may be lost when the machine, not the process, goes down.

        Returns:
            For each entry its number, which the same bytes of the same client get again, or why
            it is not taken: ``duplicate``, ``round-over``, ``ticket-unknown``, ``ticket-other``.

        Raises:
            sqlite3.Error: nothing was written; the disk may be full.
        """
        with self._lock:
            fresh: dict[str, Receipt] = {}
            with self._database.writing(durable=durable) as connection:
                outcomes = [self._enter(connection, entry, fresh) for entry in entries]
                waiting = self._write_refusals(connection)
                reach("rows-written")
            self._forget(waiting)
            self._receipts.update(fresh)
        reach("rows-committed")
        return outcomes

    def close(self, number: int) -> None:
        """Take nothing more of a round; the same bytes still get the same number."""
        with self._lock:
            with self._database.writing() as connection:
                connection.execute("UPDATE rounds SET closed = 1 WHERE number = ?", (number,))
                waiting = self._write_refusals(connection)
                reach("round-closing")
            self._forget(waiting)
            if self._open is not None and self._open.number == number:
                self._open = replace(self._open, closed=True)
        reach("round-closed")

    def written(self, number: int) -> list[Written]:
        """What has been acknowledged of a round, in the order of acknowledgement."""
        return load_written(self._database, number)

    def result(self, seq: int) -> Written:
        """The acknowledged result of that number.

        Raises:
            RunError: there is none.
        """
        return load_result(self._database, seq)

    def places(self) -> list[Place]:
        """Where the payloads lie that are acknowledged."""
        return [Place(*row) for row in self._database.rows(rows.PLACES)]

    def refuse(self, client: ClientId, round: int, code: str, reason: str) -> None:
        """Note why something of a client's was not taken; written with what is written next."""
        self._refused.append((round, client, code, reason))

    def refusals(self, number: int) -> list[Refusal]:
        """What was refused in a round, those included that are not written yet."""
        sql = "SELECT client, reason FROM refusals WHERE round = ? ORDER BY id"
        with self._lock:
            waiting = [(client, why) for at, client, _, why in self._refused.copy() if at == number]
            found = self._database.rows(sql, (number,))
        return [Refusal(client, reason) for client, reason in (*found, *waiting)]

    def flush(self) -> None:
        """Write the refusals that are waiting, without waiting for the disk."""
        with self._lock:
            if self._refused:
                with self._database.writing(durable=False) as connection:
                    waiting = self._write_refusals(connection)
                self._forget(waiting)

    def counters(self) -> dict[str, int]:
        """Since the federation began: ``results``, ``bytes``, and ``refused:<code>`` of each."""
        return dict(self._database.rows("SELECT name, value FROM counters ORDER BY name"))

    def _enter(
        self, connection: Connection, entry: Entry, fresh: dict[str, Receipt]
    ) -> int | TransferError:
        """Write one down unless it is answered already; `fresh` are those of this transaction."""
        id, sha256 = entry.ticket.id, entry.result.sha256
        answer = answered(fresh, id, sha256) or self.answer(entry.ticket, sha256)
        if answer is not None:
            return answer
        rows.count(connection, [("results", 1), ("bytes", entry.place.length)])
        seq = insert_result(connection, entry)
        fresh[id] = (seq, sha256)
        return seq

    def _check(self, ticket: Ticket) -> None:
        """Raise unless the ticket is one of the open round, and as it was given."""
        known = self._tickets.get(ticket.id)
        if known is None and (self._open is None or self._open.number != ticket.round):
            raise _over(f"round {ticket.round} is over")
        if known is None:
            raise TransferError("no such ticket, or it was replaced", code="ticket-unknown")
        if known != ticket:
            raise TransferError("this ticket is another client's", code="ticket-other")

    def _write_refusals(self, connection: Connection) -> int:
        """Write the refusals that are waiting; how many."""
        waiting = list(self._refused)
        rows.insert_refusals(connection, waiting)
        return len(waiting)

    def _forget(self, waiting: int) -> None:
        for _ in range(waiting):
            self._refused.popleft()


def _over(text: str) -> TransferError:
    return TransferError(text, code="round-over")
