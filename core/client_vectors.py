"""A vector for each client, on disk: what simulated clients keep, what strategies remember of them.

One SQLite file of equal records: a client's tensors and the round that they are of. A round's
records are written in one transaction before the state after it is saved. Where the state is lost,
the records of its round are newer than the last checkpoint and are forgotten when the run goes on;
a client's record is only dropped once a newer one is as old as the oldest checkpoint.
"""

import json
import sqlite3
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from fedloom.core.errors import RunError
from fedloom.core.layout import Layout, Vector
from fedloom.core.types import ClientId

__all__ = ["ClientVectors"]

_FORMAT = 1
_SCHEMA = """
CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE kept (client TEXT, round INTEGER, tensors BLOB NOT NULL, PRIMARY KEY (client, round));
"""


class ClientVectors:
    """Tensors of each client of a run; any thread may use it.

    Args:
        path: the file; its folder is made when missing.
        layout: the tensors.
        run: whose they are, by name: the model, the seed and so on.
        done: round of the checkpoint that the run goes on from.
        fresh: whether nothing was kept before; an earlier file is deleted.
        checkpoints: rounds that the run may be taken up from.
        memory: bytes of records that are held in memory at most.

    Attributes:
        layout: the tensors.

    Raises:
        RunError: the file cannot be used, is of another run, or lacks rounds that are done.
    """

    def __init__(
        self,
        path: Path,
        layout: Layout,
        run: Mapping[str, str | int],
        *,
        done: int,
        fresh: bool,
        checkpoints: Callable[[], Iterable[int]] = tuple,
        memory: int = 64 << 20,
    ) -> None:
        self.layout, self._oldest, self._checkpoints = layout, done, checkpoints
        self._path = path
        self._lock = threading.Lock()
        self._recent: OrderedDict[ClientId, Vector] = OrderedDict()
        self._most = max(memory // max(4 * layout.size, 1), 1)
        with self._using():
            path.parent.mkdir(parents=True, exist_ok=True)
            if fresh:
                for name in ("", "-journal"):
                    path.with_name(path.name + name).unlink(missing_ok=True)
            elif not path.exists():
                raise RunError(f"{path}: no such file; what there was of each client is lost")
            self._file = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
        try:
            if fresh:
                self._make(self._facts(run), done)
            else:
                self._check(self._facts(run), done)
            self.begin(done + 1)
        except BaseException:
            self._file.close()
            raise

    def _facts(self, run: Mapping[str, str | int]) -> dict[str, str]:
        tensors = json.dumps([[spec.name, spec.shape] for spec in self.layout])
        own = {name: str(value) for name, value in run.items()}
        return {"format": str(_FORMAT), **own, "tensors": tensors}

    def _make(self, facts: Mapping[str, str], done: int) -> None:
        with self._using():
            self._file.execute("PRAGMA synchronous = FULL")
            self._file.executescript(_SCHEMA)
            rows = [*facts.items(), ("round", str(done))]
            self._file.executemany("INSERT INTO facts VALUES (?, ?)", rows)

    def _check(self, facts: Mapping[str, str], done: int) -> None:
        """Look whether the tables are this run's."""
        with self._using():
            self._file.execute("PRAGMA synchronous = FULL")
            found = dict(self._file.execute("SELECT name, value FROM facts"))
        for name, wanted in facts.items():
            if found.get(name) != wanted:
                text = f"of another run: {name} = {found.get(name)}"
                raise RunError(f"{self._path}: {text}; this run has {wanted}")
        if int(found["round"]) < done:
            text = f"has rounds up to {found['round']}; the run is at round {done}"
            raise RunError(f"{self._path}: {text}")

    def begin(self, round: int) -> None:
        """A round begins: what an earlier try kept in it, or in later ones, is forgotten.

        Raises:
            RunError: the file cannot be written.
        """
        self._oldest = min(self._checkpoints(), default=0)
        with self._lock, self._using():
            if self._file.in_transaction:
                self._file.execute("ROLLBACK")
                self._recent.clear()
            ((newest,),) = self._file.execute("SELECT value FROM facts WHERE name = 'round'")
            if int(newest) < round:
                return
            self._recent.clear()
            self._file.execute("BEGIN IMMEDIATE")
            self._file.execute("DELETE FROM kept WHERE round >= ?", (round,))
            self._write_round(round - 1)

    def of(self, client: ClientId) -> Vector | None:
        """A client's newest tensors, float32 ``[layout.size]``; None where there are none.

        Raises:
            RunError: its record cannot be read.
        """
        with self._lock, self._using():
            vector = self._recent.get(client)
            if vector is None:
                vector = self._read(client)
        return None if vector is None else vector.copy()

    def keep(self, client: ClientId, round: int, vector: Vector) -> None:
        """Keep a client's tensors, float32 ``[layout.size]``, as they are after a round.

        Raises:
            RunError: they cannot be written.
        """
        own = np.array(vector, dtype="<f4")
        with self._lock, self._using():
            if not self._file.in_transaction:
                self._file.execute("BEGIN IMMEDIATE")
            row = (client, round, own.tobytes())
            self._file.execute("INSERT OR REPLACE INTO kept VALUES (?, ?, ?)", row)
            newest = "SELECT max(round) FROM kept WHERE client = ? AND round <= ?"
            drop = f"DELETE FROM kept WHERE client = ? AND round < ({newest})"
            self._file.execute(drop, (client, client, self._oldest))
            self._remember(client, own)

    def commit(self, round: int) -> None:
        """What was kept in a round is on the disk when this returns.

        Raises:
            RunError: it cannot be written.
        """
        with self._lock, self._using():
            if not self._file.in_transaction:
                self._file.execute("BEGIN IMMEDIATE")
            self._write_round(round)

    def close(self) -> None:
        """Let go of the file; what was not committed is forgotten."""
        with self._lock:
            self._file.close()

    def _write_round(self, round: int) -> None:
        self._file.execute("UPDATE facts SET value = ? WHERE name = 'round'", (str(round),))
        self._file.execute("COMMIT")

    def _read(self, client: ClientId) -> Vector | None:
        newest = "SELECT tensors FROM kept WHERE client = ? ORDER BY round DESC LIMIT 1"
        row = self._file.execute(newest, (client,)).fetchone()
        if row is None:
            return None
        if len(row[0]) != 4 * self.layout.size:
            text = f"{len(row[0])} bytes of client {client!r}; expected {4 * self.layout.size}"
            raise RunError(f"{self._path}: {text}")
        found = np.frombuffer(row[0], dtype="<f4").astype(np.float32)
        self._remember(client, found)
        return found

    def _remember(self, client: ClientId, vector: Vector) -> None:
        self._recent[client] = vector
        self._recent.move_to_end(client)
        while len(self._recent) > self._most:
            self._recent.popitem(last=False)

    @contextmanager
    def _using(self) -> Iterator[None]:
        """One line for what the disk or SQLite says."""
        try:
            yield
        except (OSError, sqlite3.Error) as error:
            raise RunError(f"{self._path}: cannot be used: {error}") from error
