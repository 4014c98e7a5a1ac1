"""Where split sessions stand, on disk: a process that is killed loses the step it was at, no more.

Tensors, session and answer of a step are one transaction: tensors and answers lie in files of their
own, beside those of the step before, and count once the transaction that names them is done. It
survives the process and not, for the last steps, the machine: then clients and server do not agree,
and both say so.
"""

import json
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import load, save
from torch import Tensor

from fedloom.core.errors import RunError, SplitError
from fedloom.core.types import ClientId
from fedloom.server.split_slots import Slots
from fedloom.tuning.activation_codecs import Octets

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


_KINDS = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.int64: "I64",
    torch.int32: "I32",
}
"""What safetensors calls the types that optimizers have."""


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
        answer: what was answered, in parts.
        sent: bytes that the client's legs took so far.
        received: bytes that the answers took.
    """

    key: str
    client: str
    lane: str
    opened: bytes
    step: int
    version: int
    answer: Sequence[Octets]
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
    """The file of a host's sessions. Threads may share it.

    Args:
        path: of the file, which is made where it is not there; a folder of the same name lies
            beside it.

    Attributes:
        taken_up: the file was there: an earlier process may have had sessions that it did not write
            down, as none of their steps was done.

    Raises:
        RunError: it cannot be used.
    """

    def __init__(self, path: Path) -> None:
        self._turn, self._path, self._over = threading.Lock(), path, False
        self.taken_up = path.exists()
        self._versions: dict[str, int] = {}
        try:
            self._slots = Slots(path.with_suffix(".values"))
            self._file = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            self._file.execute("pragma journal_mode = wal")
            self._file.execute("pragma synchronous = normal")
            self._file.executescript(_SCHEMA)
        except (sqlite3.Error, OSError) as error:
            raise RunError(f"{path}: cannot be used: {error}") from error

    def write(self, row: SessionRow, state: Callable[[], Mapping[str, Tensor]]) -> None:
        """A step is done.

        Args:
            row: where its session stands.
            state: what all steps have changed of the lane's tensors; asked for only where they have
                stepped since they were written last.

        Raises:
            RunError: it cannot be written.
            SplitError: the file is closed (``plan``): what it was for is over.
        """
        lane, answer = _lane(row.lane), _answer(row.key)
        with self._turn:
            with self._writing():
                found = {answer: self._slots.write(answer, row.answer)}
                if self._versions.get(row.lane) != row.version:
                    found[lane] = self._slots.write(lane, _parts(state()))
                    self._file.execute("replace into lanes values (?, ?)", (row.lane, found[lane]))
                values = (row.key, row.client, row.lane, row.opened, row.step, row.version)
                text = "replace into sessions values (?, ?, ?, ?, ?, ?, ?, ?, ?)"
                self._file.execute(text, (*values, found[answer], row.sent, row.received))
            for name, reference in found.items():
                self._slots.keep(name, reference)
            self._versions[row.lane] = row.version

    def forget(self, key: str, lane: str, client: ClientId, moved: Moved) -> None:
        """A session is over; what it came to stays, in place of an earlier one of the client.

        Tensors that are its own go with it. This survives the machine, too.

        Raises:
            RunError, SplitError: as in `write`.
        """
        delta = save({"delta": moved.delta.detach().cpu().contiguous()})
        values = (client, moved.version, moved.sent, moved.received, delta)
        with self._turn:
            with self._writing(durable=True):
                self._file.execute("replace into moved values (?, ?, ?, ?, ?)", values)
                self._file.execute("delete from sessions where key = ?", (key,))
                self._file.execute("delete from lanes where name = ? and name = ?", (lane, key))
            self._slots.drop(_answer(key))
            if lane == key:
                self._slots.drop(_lane(lane))
                self._versions.pop(lane, None)

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
        return None if found is None else self._state("", found[0])

    def rows(self) -> Iterator[tuple[SessionRow, dict[str, Tensor]]]:
        """Sessions that were not over, and their tensors."""
        query = (
            "select key, client, lane, opened, step, version, sent, received, answer, state "
            "from sessions join lanes on name = lane order by sessions.rowid"
        )
        for *fields, sent, received, reference, lane in self._file.execute(query).fetchall():
            row = SessionRow(*[*fields, (), sent, received])
            state = self._state(row.lane, lane)
            answer = self._value(_answer(row.key), reference)
            if state is not None and answer is not None:
                yield replace(row, answer=(answer,)), state

    def close(self) -> None:
        """Let go of the file."""
        with self._turn:
            self._over = True
            self._file.close()

    def _state(self, lane: str, reference: bytes) -> dict[str, Tensor] | None:
        found = self._value(_lane(lane), reference)
        return None if found is None else load(found)

    def _value(self, name: str, reference: bytes) -> bytes | None:
        self._slots.keep(name, reference)
        return self._slots.read(name, reference)

    @contextmanager
    def _writing(self, *, durable: bool = False) -> Iterator[None]:
        """One transaction; what is durable takes all before it along to the disk."""
        if self._over:
            raise SplitError("what this session was for is over", code="plan")
        try:
            self._file.execute(f"pragma synchronous = {'full' if durable else 'normal'}")
            with self._file:
                self._file.execute("begin immediate")
                yield
        except (sqlite3.Error, OSError) as error:
            raise RunError(f"{self._path}: cannot be written: {error}") from error


def _lane(name: str) -> str:
    return f"lane {name}"


def _answer(key: str) -> str:
    return f"answer {key}"


def _parts(state: Mapping[str, Tensor]) -> list[Octets]:
    """Tensors in the format of safetensors, without copies of what is in memory already."""
    tensors = {name: t.detach().cpu().contiguous() for name, t in state.items()}
    head, end = {}, 0
    for name, tensor in tensors.items():
        start, end = end, end + tensor.nbytes
        kind = _KINDS[tensor.dtype]
        head[name] = {"dtype": kind, "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(head).encode()
    text += b" " * (-len(text) % 8)
    whole = [t.reshape(-1).view(torch.uint8).numpy().data for t in tensors.values() if t.numel()]
    return [len(text).to_bytes(8, "little"), text, *whole]
