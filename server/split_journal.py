"""Where split sessions stand, on disk: a process that is killed loses the step it was at, no more.

Tensors, session and answer of a step are one transaction. It survives the process and not, for the
last steps, the machine: then clients and server do not agree, and both say so.
"""

import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import load, save
from torch import Tensor

from fedloom.core.errors import RunError

__all__ = ["Journal", "SessionRow"]

_SCHEMA = """
create table if not exists lanes (name text primary key, state blob not null);
create table if not exists sessions (
    key text primary key, client text not null, lane text not null, opened blob not null,
    step integer not null, version integer not null, answer blob not null
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
    """

    key: str
    client: str
    lane: str
    opened: bytes
    step: int
    version: int
    answer: bytes


class Journal:
    """The file of a host's sessions. For one thread at a time.

    Args:
        path: of the file, which is made where it is not there.

    Raises:
        RunError: it cannot be used.
    """

    def __init__(self, path: Path) -> None:
        try:
            self._file = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            self._file.execute("pragma journal_mode = wal")
            self._file.execute("pragma synchronous = normal")
            self._file.executescript(_SCHEMA)
        except sqlite3.Error as error:
            raise RunError(f"{path}: cannot be used: {error}") from error

    def write(self, row: SessionRow, state: Mapping[str, Tensor]) -> None:
        """A step is done."""
        tensors = {name: tensor.detach().cpu() for name, tensor in state.items()}
        with self._file:
            self._file.execute("begin immediate")
            self._file.execute("replace into lanes values (?, ?)", (row.lane, save(tensors)))
            values = (row.key, row.client, row.lane, row.opened, row.step, row.version, row.answer)
            self._file.execute("replace into sessions values (?, ?, ?, ?, ?, ?, ?)", values)

    def forget(self, key: str, lane: str) -> None:
        """A session is over; tensors that are its own go with it."""
        with self._file:
            self._file.execute("begin immediate")
            self._file.execute("delete from sessions where key = ?", (key,))
            self._file.execute("delete from lanes where name = ? and name = ?", (lane, key))

    def shared(self) -> dict[str, Tensor] | None:
        """Tensors that all sessions share; None where there are none yet."""
        found = self._file.execute("select state from lanes where name = ''").fetchone()
        return None if found is None else load(found[0])

    def rows(self) -> Iterator[tuple[SessionRow, dict[str, Tensor]]]:
        """Sessions that were not over, and their tensors."""
        query = (
            "select key, client, lane, opened, step, version, answer, state from sessions "
            "join lanes on name = lane order by sessions.rowid"
        )
        for *fields, state in self._file.execute(query).fetchall():
            yield SessionRow(*fields), load(state)

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()
