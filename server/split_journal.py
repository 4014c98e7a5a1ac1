"""Where split sessions stand, on disk: a process that is killed loses the step it was at, no more.

Tensors, session and answer of a step are one transaction. It survives the process and not, for the
last steps, the machine: then clients and server do not agree, and both say so.
"""

import sqlite3
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import load, save
from torch import Tensor

from fedloom.core.errors import RunError, SplitError
from fedloom.core.types import ClientId

__all__ = ["Journal", "Moved", "SessionRow"]

_SCHEMA = """
create table if not exists lanes (name text primary key, state blob not null);
create table if not exists sessions (
    key text primary key, client text not null, lane text not null, opened blob not null,
    step integer not null, version integer not null, answer blob not null,
    sent integer not null, received integer not null
);
create table if not exists moved (
    client text primary key, version integer not null, sent integer not null,
    received integer not null, delta blob not null
);
"""


@dataclass(frozen=True)
class SessionRow:
    """A session as it is written down.

    Attributes:
        key: names it to the host.
        client: whose it is.
        lane: name of the tensors that it works with.
        opened: the message that it began with.
        step: its last step that is done.
        version: how often its tensors had stepped by then.
        answer: what was answered: header and body, each a message.
        sent: bytes that the client's legs took so far.
        received: bytes that the answers took.
    """

    key: str
    client: str
    lane: str
    opened: bytes
    step: int
    version: int
    answer: bytes
    sent: int = 0
    received: int = 0


@dataclass(frozen=True)
class Moved:
    """What a client's session has come to.

    Attributes:
        version: how often its tensors have stepped.
        sent: bytes that the client's legs took.
        received: bytes that the answers took.
        delta: what its tensors have moved, float32 ``[1, P]``.
    """

    version: int
    sent: int
    received: int
    delta: Tensor


class Journal:
    """The file of a host's sessions.

    Args:
        path: of the file, which is made where it is not there.

    Raises:
        RunError: it cannot be used.
    """

    def __init__(self, path: Path) -> None:
        self._turn, self._closed = threading.Lock(), False
        try:
            self._file = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            self._file.execute("pragma journal_mode = wal")
            self._file.execute("pragma synchronous = normal")
            self._file.executescript(_SCHEMA)
        except sqlite3.Error as error:
            raise RunError(f"{path}: cannot be used: {error}") from error

    def write(self, row: SessionRow, state: Mapping[str, Tensor]) -> None:
        """A step is done.

        Raises:
            SplitError: the file is closed (``plan``): what it was for is over.
        """
        tensors = {name: tensor.detach().cpu() for name, tensor in state.items()}
        fields = (row.key, row.client, row.lane, row.opened, row.step, row.version, row.answer)
        with self._writing():
            self._file.execute("replace into lanes values (?, ?)", (row.lane, save(tensors)))
            values = (*fields, row.sent, row.received)
            self._file.execute("replace into sessions values (?, ?, ?, ?, ?, ?, ?, ?, ?)", values)

    def forget(self, key: str, lane: str, client: ClientId, moved: Moved) -> None:
        """A session is over; what it came to stays, in place of an earlier one of the client.

        Tensors that are its own go with it. This survives the machine, too.

        Raises:
            SplitError: as in `write`.
        """
        delta = save({"delta": moved.delta.detach().cpu().contiguous()})
        values = (client, moved.version, moved.sent, moved.received, delta)
        with self._writing(durable=True):
            self._file.execute("replace into moved values (?, ?, ?, ?, ?)", values)
            self._file.execute("delete from sessions where key = ?", (key,))
            self._file.execute("delete from lanes where name = ? and name = ?", (lane, key))

    def moved(self, client: ClientId) -> Moved | None:
        """What a client's latest session that is over came to; None where there is none."""
        query = "select version, sent, received, delta from moved where client = ?"
        with self._turn:
            found = self._file.execute(query, (client,)).fetchone()
        if found is None:
            return None
        version, sent, received, delta = found
        return Moved(version, sent, received, load(delta)["delta"])

    def shared(self) -> dict[str, Tensor] | None:
        """Tensors that all sessions share; None where there are none yet."""
        found = self._file.execute("select state from lanes where name = ''").fetchone()
        return None if found is None else load(found[0])

    def rows(self) -> Iterator[tuple[SessionRow, dict[str, Tensor]]]:
        """Sessions that were not over, and their tensors."""
        query = (
            "select key, client, lane, opened, step, version, answer, sent, received, state "
            "from sessions join lanes on name = lane order by sessions.rowid"
        )
        for *fields, state in self._file.execute(query).fetchall():
            yield SessionRow(*fields), load(state)

    def close(self) -> None:
        """Let go of the file."""
        with self._turn:
            self._closed = True
            self._file.close()

    @contextmanager
    def _writing(self, *, durable: bool = False) -> Iterator[None]:
        """One transaction; what is durable takes all before it along to the disk."""
        with self._turn:
            if self._closed:
                raise SplitError("what this session was for is over", code="plan")
            self._file.execute(f"pragma synchronous = {'full' if durable else 'normal'}")
            with self._file:
                self._file.execute("begin immediate")
                yield
