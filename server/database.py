"""The one SQLite file of a server's state folder, and who may work in it.

Everything is written through one connection under one lock; reads take a connection of their own
and never wait for a write (SQLite's write-ahead log). Commands beside a running server write too.
"""

import fcntl
import os
import sqlite3
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from fedloom.core.errors import RunError
from fedloom.server.failpoints import reach
from fedloom.server.schema import SCHEMA, VERSION

__all__ = ["Database"]

_FILE = "state.sqlite"
_BUSY_SECONDS = 10.0
_LOG_BYTES = 64 << 20


class Database:
    """The state of one federation's server; any thread may use it.

    Attributes:
        folder: where it lies.
    """

    def __init__(self, folder: Path, lock: int | None) -> None:
        self.folder = folder
        self._lock = lock
        self._writer = _connect(folder / _FILE)
        self._writing = threading.RLock()
        self._readers: deque[sqlite3.Connection] = deque()
        self._watcher = _connect(folder / _FILE)
        self._watching = threading.Lock()
        self._seen = (-1, 0)

    @staticmethod
    def open(folder: Path, *, exclusive: bool) -> "Database":
        """The database of `folder`.

        Args:
            folder: the server's state.
            exclusive: for the server itself: make what is not there yet, and keep a second server
                out. Otherwise it may run beside one.

        Raises:
            RunError: another server works in the folder; it holds no federation, or one of another
                version of fedloom; it cannot be read or written.
        """
        lock: int | None = None
        try:
            if exclusive:
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                lock = _lock(folder)
                _prepare(folder / _FILE)
            elif not (folder / _FILE).exists():
                text = f"{folder}: no federation's state is here"
                raise RunError(f"{text}; --in names the server's folder (server.directory)")
            _check_version(folder / _FILE)
            return Database(folder, lock)
        except Exception as error:
            if lock is not None:
                os.close(lock)
            if isinstance(error, OSError | sqlite3.Error):
                raise RunError(f"{folder}: cannot be used: {error}") from error
            raise

    def close(self) -> None:
        """Let go of the file and the folder. No other thread may be using the database."""
        with self._writing:
            for connection in (*self._readers, self._watcher, self._writer):
                connection.close()
            self._readers.clear()
            if self._lock is not None:
                os.close(self._lock)
                self._lock = None

    @contextmanager
    def writing(self, *, durable: bool = True) -> Iterator[sqlite3.Connection]:
        """One transaction: on the disk when the block ends, undone if it raises.

        Args:
            durable: with False it may be lost when the machine, not the process, goes down;
                whatever is durable and comes later takes it along.

        Raises:
            sqlite3.Error: nothing was written; the disk may be full.
        """
        with self._writing:
            connection = self._writer
            if not durable:
                connection.execute("PRAGMA synchronous = NORMAL")
            try:
                connection.execute("BEGIN IMMEDIATE")
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise
            finally:
                if not durable:
                    connection.execute("PRAGMA synchronous = FULL")

    def rows(self, sql: str, parameters: tuple[object, ...] = ()) -> list[Any]:
        """What a query finds among everything that is committed."""
        try:
            connection = self._readers.pop()
        except IndexError:
            connection = _connect(self.folder / _FILE)
        try:
            return connection.execute(sql, parameters).fetchall()
        finally:
            self._readers.append(connection)

    def revision(self) -> int:
        """A number that grows with every change of who may do what, whichever process made it.

        Cheap while nothing is written: SQLite is asked whether its file changed, no more.
        """
        with self._watching:
            (version,) = self._watcher.execute("PRAGMA data_version").fetchone()
            if version != self._seen[0]:
                (revision,) = self._watcher.execute("SELECT revision FROM control").fetchone()
                self._seen = (version, revision)
            return self._seen[1]


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(
        path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False
    )
    try:
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute(f"PRAGMA journal_size_limit = {_LOG_BYTES}")
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def _prepare(path: Path) -> None:
    """Make the tables where there are none; nobody else may read them."""
    if not path.exists():  # closing a handle of a file drops the locks that SQLite has on it here
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    with closing(_connect(path)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        if _version(connection) == 0:
            connection.execute("BEGIN IMMEDIATE")
            for statement in SCHEMA:
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {VERSION}")
            reach("schema-written")
            connection.execute("COMMIT")


def _version(connection: sqlite3.Connection) -> int:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    return int(version)


def _check_version(path: Path) -> None:
    with closing(_connect(path)) as connection:
        found = _version(connection)
    if found != VERSION:
        text = f"{path}: the state of another version of fedloom (tables {found}, here {VERSION})"
        raise RunError(f"{text}; go on with that version, or with a new folder")


def _lock(folder: Path) -> int:
    """A handle that keeps a second server out until it is closed, also by this process's end."""
    handle = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        pid = os.pread(handle, 32, 0).decode(errors="replace").strip() or "unknown"
        os.close(handle)
        text = f"{folder}: another server (pid {pid}) works here"
        raise RunError(f"{text}; stop it, or give this one its own server.directory") from None
    os.ftruncate(handle, 0)
    os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
    return handle
