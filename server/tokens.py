"""Join tokens as the server keeps them: only a digest of the secret, and how often it may be used.

Using a token and becoming a client is one transaction. A device that never saw the answer may ask
again with the same key, and uses nothing more.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from sqlite3 import Connection
from typing import Protocol, TypeVar

from fedloom.core.errors import IdentityError
from fedloom.core.types import ClientId
from fedloom.security.tokens import digest, matches, new_id, new_secret
from fedloom.server.database import Database
from fedloom.server.failpoints import reach

__all__ = ["Certificate", "Token", "Tokens", "bump"]

_COLUMNS = "id, name, uses, created, expires, revoked"
_ENROL = """INSERT INTO clients (name, token, key, serial, enrolled, revision)
    VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (name) DO UPDATE SET token = excluded.token,
    key = excluded.key, serial = excluded.serial, enrolled = excluded.enrolled,
    revision = excluded.revision"""


class Certificate(Protocol):
    """What a token is exchanged for."""

    @property
    def serial(self) -> int:
        """Its number, unique in the federation."""


_UNKNOWN = "token-unknown"
Issued = TypeVar("Issued", bound=Certificate)


@dataclass(frozen=True)
class Token:
    """A join token without its secret, which only its holder knows.

    Attributes:
        id: what it is called.
        name: of the client that it is for; empty where the device proposes one.
        uses: how often it can still be used.
        created: when, in seconds since 1970.
        expires: when it ends.
        revoked: whether an operator ended it before.
    """

    id: str
    name: str
    uses: int
    created: float
    expires: float
    revoked: bool


class Tokens:
    """The join tokens of a federation.

    Args:
        database: the server's state; a command's or the server's own.
        clock: seconds since 1970.
    """

    def __init__(self, database: Database, *, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._clock = clock

    def create(
        self, name: str = "", *, uses: int = 1, ttl_seconds: float = 3600.0
    ) -> tuple[str, str]:
        """A new token: its id, and its secret, which is said once and kept nowhere."""
        id, secret, now = new_id(), new_secret(), self._clock()
        row = (id, digest(secret), name, uses, now, now + ttl_seconds)
        sql = "INSERT INTO tokens (id, secret, name, uses, created, expires)"
        with self._database.writing() as connection:
            connection.execute(f"{sql} VALUES (?, ?, ?, ?, ?, ?)", row)
        return id, secret

    def list(self) -> list[Token]:
        """Every token, used and expired ones too, oldest first."""
        rows = self._database.rows(f"SELECT {_COLUMNS} FROM tokens ORDER BY created, id")
        return [
            Token(id, name, uses, created, expires, bool(revoked))
            for id, name, uses, created, expires, revoked in rows
        ]

    def revoke(self, id: str) -> None:
        """Let a token enrol nobody any more; who enrolled with it stays.

        Raises:
            IdentityError: there is no such token.
        """
        with self._database.writing() as connection:
            found = connection.execute("UPDATE tokens SET revoked = 1 WHERE id = ?", (id,))
            if not found.rowcount:
                text = f"no token {id!r}; `fedloom token list` shows them"
                raise IdentityError(text, code="token-unknown")

    def redeem(
        self, id: str, secret: str, *, name: str, key: str, issue: Callable[[ClientId], Issued]
    ) -> tuple[ClientId, Issued]:
        """Use a token once and make its holder a client.

        Args:
            id: the token's.
            secret: which only its holder can know.
            name: that the device proposes; the token's own name goes before it.
            key: SHA-256 of the public key that the device proved to hold, hex.
            issue: makes the certificate for a name; if it raises, nothing was used.

        Returns:
            The name given, and what `issue` returned.

        Raises:
            IdentityError: nobody is let in, nothing is used; its code is one of
                ``token-unknown``, ``token-forged``, ``token-expired``, ``token-used``, ``name``.
        """
        with self._database.writing() as connection:
            client, again = self._admit(connection, id, secret, (name, key))
            issued = issue(client)
            if not again:
                connection.execute("UPDATE tokens SET uses = uses - 1 WHERE id = ?", (id,))
            row = (client, id, key, f"{issued.serial:x}", self._clock(), bump(connection))
            connection.execute(_ENROL, row)
            reach("enrolment-written")
        reach("enrolled")
        return client, issued

    def readmit(self, *, key: str, issue: Callable[[ClientId], Issued]) -> tuple[ClientId, Issued]:
        """Another certificate for a client whose last one ended, known by its key alone.

        Args:
            key: SHA-256 of the public key that the device proved to hold, hex.
            issue: makes the certificate for a name.

        Raises:
            IdentityError: no client has this key (``token-unknown``), or it was shut out
                (``revoked``).
        """
        with self._database.writing() as connection:
            sql = "SELECT name, enrolled, revoked FROM clients WHERE key = ?"
            row = connection.execute(sql, (key,)).fetchone()
            if row is None:
                raise IdentityError("nobody here has this key: join with a token", code=_UNKNOWN)
            client, enrolled, revoked = row
            if revoked is not None and revoked >= enrolled:
                raise IdentityError(
                    f"{client!r} was revoked; join with a new token", code="revoked"
                )
            issued = issue(client)
            sql = "UPDATE clients SET serial = ?, revision = ? WHERE name = ?"
            connection.execute(sql, (f"{issued.serial:x}", bump(connection), client))
        return client, issued

    def _admit(
        self, connection: Connection, id: str, secret: str, proposed: tuple[str, str]
    ) -> tuple[ClientId, bool]:
        """Under which name the holder is let in, and whether it was before with the same key."""
        sql = "SELECT secret, name, uses, expires, revoked FROM tokens WHERE id = ?"
        row = connection.execute(sql, (id,)).fetchone()
        if row is None:
            raise _unknown(id)
        stored, named, uses, expires, revoked = row
        if not matches(secret, stored):
            text = "the token's secret is not the one given out; copy it again, or ask for another"
            raise IdentityError(text, code="token-forged")
        if revoked or self._clock() >= expires:
            ended = "was revoked" if revoked else "has expired"
            raise IdentityError(f"token {id} {ended}; ask for another", code="token-expired")
        name, key = proposed
        sql = "SELECT name FROM clients WHERE token = ? AND key = ? AND serial != ''"
        before = connection.execute(sql, (id, key)).fetchone()
        if before is not None:
            return before[0], True
        if uses < 1:
            raise IdentityError(f"token {id} is used up; ask for another", code="token-used")
        return _free(connection, named or name), False


def bump(connection: Connection) -> int:
    """Make every process look at the clients again; the revision that they will see."""
    sql = "UPDATE control SET revision = revision + 1 RETURNING revision"
    (revision,) = connection.execute(sql).fetchall()[0]
    return int(revision)


def _free(connection: Connection, name: str) -> ClientId:
    """The name, if nobody who may still work has it."""
    if not name:
        raise IdentityError("neither the token nor the device gives a name", code="name")
    sql = "SELECT 1 FROM clients WHERE name = ? AND serial != ''"
    if connection.execute(sql, (name,)).fetchone() is not None:
        text = f"a client {name!r} is enrolled already; give another --name, or have it revoked"
        raise IdentityError(text, code="name")
    return name


def _unknown(id: str) -> IdentityError:
    return IdentityError(f"no token {id!r}; ask for another", code="token-unknown")
