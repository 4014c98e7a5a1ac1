"""Who belongs to the federation, and whether they may work: answered from memory.

What a command writes beside a running server takes effect on the next question: the database's
revision is compared each time, and the clients that changed are read again.
"""

import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

from fedloom.core.errors import IdentityError
from fedloom.core.types import ClientId
from fedloom.server.database import Database
from fedloom.server.tokens import Tokens, bump

__all__ = ["Enrolled", "Register"]

_COLUMNS = (
    "name, enrolled, serial, revoked, quarantined, strikes, accepted, refused, last_code,"
    " num_examples, device, seen"
)
_SAVE = """UPDATE clients SET strikes = ?, accepted = ?, refused = ?, last_code = ?,
    num_examples = ?, device = ?, seen = ? WHERE name = ?"""


@dataclass(frozen=True)
class Enrolled:
    """A client as the server knows it. Times are seconds since 1970.

    Attributes:
        id: its name.
        enrolled: when it last used a token.
        serial: of the certificate given last, hex; empty while it is shut out.
        revoked: when it was last shut out, or None; it may be back since.
        quarantined: since when it gets no work, or None.
        strikes: refusals in a row.
        accepted: results taken.
        refused: results refused.
        last_code: why the last one was.
        num_examples: that it says it holds; 0 while unknown.
        device: what it says it is.
        seen: when it was last heard of, or None.
    """

    id: ClientId
    enrolled: float
    serial: str
    revoked: float | None = None
    quarantined: float | None = None
    strikes: int = 0
    accepted: int = 0
    refused: int = 0
    last_code: str = ""
    num_examples: int = 0
    device: str = ""
    seen: float | None = None

    @property
    def shut_out(self) -> bool:
        """Whether it was revoked and has not joined again."""
        return not self.serial

    @property
    def may_work(self) -> bool:
        """Whether it may be given work."""
        return not self.shut_out and self.quarantined is None


class Register:
    """The clients of a federation; any thread may use it.

    What clients say and do is kept in memory until `flush`; what an operator or a token decides
    is on the disk before the call returns.

    Args:
        database: the server's state; a command's or the server's own.
        quarantine: refusals in a row after which a client gets no work (0: never).
        clock: seconds since 1970.

    Attributes:
        tokens: with which devices become clients.
    """

    def __init__(
        self, database: Database, *, quarantine: int = 0, clock: Callable[[], float] = time.time
    ) -> None:
        self.tokens = Tokens(database, clock=clock)
        self._database = database
        self._quarantine = quarantine
        self._clock = clock
        self._lock = threading.RLock()
        self._clients: dict[ClientId, Enrolled] = {}
        self._changed: set[ClientId] = set()
        self._revision = -1
        self._paused = False

    def client(self, id: ClientId) -> Enrolled | None:
        """What is known of a client."""
        self._refresh()
        return self._clients.get(id)

    def clients(self) -> list[Enrolled]:
        """Everyone who ever enrolled, by name."""
        self._refresh()
        return sorted(self._clients.copy().values(), key=lambda client: client.id)

    def let_in(self, id: ClientId, not_before: float, serial: int) -> None:
        """Return if the holder of a certificate may work.

        A client that was shut out comes back with a new token: of its certificates only those
        count that began later, and the one given last (certificates begin minutes before they
        are made).

        Args:
            id: whose certificate it is.
            not_before: when it begins, in seconds since 1970.
            serial: its number.

        Raises:
            IdentityError: with the code ``not-enrolled`` or ``revoked``.
        """
        client = self.client(id)
        if client is None:
            text = f"{id!r} is not enrolled here; join with a new token"
            raise IdentityError(text, code="not-enrolled")
        older = client.revoked is not None and not_before <= client.revoked
        if client.shut_out or (older and f"{serial:x}" != client.serial):
            raise IdentityError(f"{id!r} was revoked; join with a new token", code="revoked")

    def renewed(self, id: ClientId, serial: int) -> None:
        """A client was given another certificate; one that is shut out stays out."""
        with self._database.writing() as connection:
            sql = "UPDATE clients SET serial = ?, revision = ? WHERE name = ? AND serial != ''"
            connection.execute(sql, (f"{serial:x}", bump(connection), id))

    def revoke(self, id: ClientId) -> None:
        """Shut a client out, from its next call on.

        Raises:
            IdentityError: there is no such client.
        """
        self._decide(id, "revoked = ?, serial = ''", (self._clock(),))

    def clear(self, id: ClientId) -> None:
        """Give a quarantined client work again.

        Raises:
            IdentityError: there is no such client.
        """
        self._decide(id, "quarantined = NULL, strikes = 0", ())

    def seen(self, id: ClientId, *, num_examples: int, device: str) -> None:
        """A client was heard of; this says what it holds and what it is."""
        self._note(id, seen=self._clock(), num_examples=num_examples, device=device)

    def accepted(self, id: ClientId) -> None:
        """A client's result was taken: refusals in a row are counted anew."""
        with self._lock:
            client = self.client(id)
            if client is not None:
                self._note(id, strikes=0, accepted=client.accepted + 1)

    def refused(self, id: ClientId, code: str) -> bool:
        """A client's result was refused; whether it is quarantined from now on.

        Args:
            id: whose.
            code: why, as one word.
        """
        with self._lock:
            client = self.client(id)
            if client is None:
                return False
            strikes = client.strikes + 1
            self._note(id, strikes=strikes, refused=client.refused + 1, last_code=code)
            if client.quarantined is not None or not 0 < self._quarantine <= strikes:
                return False
            self.flush()
            self._decide(id, "quarantined = ?", (self._clock(),))
            return True

    @property
    def paused(self) -> bool:
        """Whether an operator stopped the federation: no round begins."""
        self._refresh()
        return self._paused

    @paused.setter
    def paused(self, value: bool) -> None:
        with self._database.writing() as connection:
            connection.execute("UPDATE control SET paused = ?", (value,))
            bump(connection)

    def flush(self) -> None:
        """Write what clients said and did; the machine may lose it when it goes down."""
        self._refresh()
        with self._lock:
            changed = [self._clients[id] for id in sorted(self._changed)]
            self._changed.clear()
        if not changed:
            return
        try:
            with self._database.writing(durable=False) as connection:
                connection.executemany(_SAVE, map(_saved, changed))
        except BaseException:
            with self._lock:
                self._changed.update(client.id for client in changed)
            raise

    def _note(self, id: ClientId, **changes: Any) -> None:
        with self._lock:
            self._refresh()
            client = self._clients.get(id)
            if client is not None:
                self._clients[id] = replace(client, **changes)
                self._changed.add(id)

    def _decide(self, id: ClientId, what: str, values: tuple[object, ...]) -> None:
        with self._database.writing() as connection:
            sql = f"UPDATE clients SET {what}, revision = ? WHERE name = ?"
            found = connection.execute(sql, (*values, bump(connection), id))
            if not found.rowcount:
                text = f"no client {id!r}; `fedloom clients` lists them"
                raise IdentityError(text, code="not-enrolled")

    def _refresh(self) -> None:
        """Read the clients again that changed, if any did."""
        revision = self._database.revision()
        if revision == self._revision:
            return
        with self._lock:
            if revision <= self._revision:
                return
            sql = f"SELECT {_COLUMNS} FROM clients WHERE revision > ?"
            self._merge(Enrolled(*row) for row in self._database.rows(sql, (self._revision,)))
            ((paused,),) = self._database.rows("SELECT paused FROM control")
            self._paused, self._revision = bool(paused), revision

    def _merge(self, found: Iterable[Enrolled]) -> None:
        """Take decisions from the database; of what is not yet written there, memory knows more."""
        for client in found:
            known = self._clients.get(client.id)
            if known is not None and client.id in self._changed:
                cleared = known.quarantined is not None and client.quarantined is None
                known = replace(known, strikes=0) if cleared else known
                client = replace(
                    known,
                    enrolled=client.enrolled,
                    serial=client.serial,
                    revoked=client.revoked,
                    quarantined=client.quarantined,
                )
            self._clients[client.id] = client


def _saved(client: Enrolled) -> tuple[object, ...]:
    return (
        *(client.strikes, client.accepted, client.refused, client.last_code),
        *(client.num_examples, client.device, client.seen, client.id),
    )
