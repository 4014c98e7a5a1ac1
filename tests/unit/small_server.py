"""A federation's parts in a folder, without ports: a vector of four numbers is trained."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn
from zlib import crc32

import numpy as np
from loopback import loopback_job

from fedloom.codecs.dense import Float32
from fedloom.codecs.downlink import Downlink
from fedloom.core.layout import Layout, TensorSpec
from fedloom.core.types import Client, ClientTask, Delta, Params, State
from fedloom.results.observe import RoundLine, RunInfo, Summary
from fedloom.server.board import Offer
from fedloom.server.contents import Contents
from fedloom.server.federation import Federation
from fedloom.server.gate import Gate
from fedloom.server.models import Models
from fedloom.server.plan import Plan
from fedloom.server.records import Result, Ticket
from fedloom.server.wire import RawChunk

LAYOUT = Layout((TensorSpec("w", (4,), block="layer.0"),))


class Noted:
    """An observer that keeps what it was told."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.lines: list[RoundLine] = []
        self.summaries: list[Summary] = []

    def started(self, info: RunInfo) -> None: ...

    def round_done(self, line: RoundLine) -> None:
        self.lines.append(line)

    def note(self, text: str) -> None:
        self.notes.append(text)

    def finished(self, summary: Summary) -> None:
        self.summaries.append(summary)


def plan_of(folder: Path, **settings: Any) -> Plan:
    job = loopback_job(folder, settings, name="small", rounds=1, clients_per_round=2)
    start = Params(LAYOUT, np.zeros(4, dtype=np.float32))
    return Plan(job, start)


@contextmanager
def opened(folder: Path, observer: Noted | None = None, **settings: Any) -> Iterator[Federation]:
    found = Federation.open(plan_of(folder, **settings), observer or Noted())
    try:
        yield found
    finally:
        found.intake.pool.shutdown()
        found.close()


def frame_of(value: float, layout: Layout = LAYOUT) -> bytes:
    vector = np.full(layout.size, value, dtype=np.float32)
    return bytes(Float32().encode(Delta(layout, vector)).frame)


def result_of(frame: bytes, **changes: Any) -> Result:
    fields = {
        "size": len(frame),
        "sha256": hashlib.sha256(frame).hexdigest(),
        "codec": "float32",
        "num_examples": 3,
        **changes,
    }
    return Result(**fields)


def gate_of(names: Sequence[str], **changes: Any) -> Gate:
    fields = {
        "tasks": {name: ClientTask(name, 1, 0) for name in names},
        "layout": LAYOUT,
        "decode": Float32().decode,
        "bytes_down": 7,
        "norm_bound": 0.0,
        "max_examples": 100,
        "largest": 1000,
        **changes,
    }
    return Gate(**fields)


def offer_of(ticket: Ticket, *, ends: float = 1e12) -> Offer:
    return Offer(ticket, "{}", "ab" * 32, 5, ends, 1000)


def models_of(contents: Contents | None = None, value: float = 0.0) -> Models:
    """The model on offer, every number the same."""
    state = State(Params(LAYOUT, np.full(4, value, dtype=np.float32)))
    return Models(Downlink(state, Float32(), LAYOUT, number=0), contents or Contents())


def begin_round(federation: Federation, names: Sequence[str], **gate: Any) -> dict[str, Ticket]:
    """Open the first round to these clients, as a live one does."""
    tickets = federation.ledger.begin(1, 1, 0, [Client(name, 3) for name in names])
    federation.intake.gate = gate_of(names, **gate)
    federation.board.offer(map(offer_of, tickets.values()))
    return tickets


async def chunks(frame: bytes, size: int = 16) -> AsyncIterator[RawChunk]:
    for at in range(0, len(frame), size):
        part = frame[at : at + size]
        yield RawChunk(at, crc32(part), memoryview(part))


async def taken(federation: Federation, ticket: Ticket, frame: bytes, **changes: Any) -> int:
    """Hand in a result as a call does."""
    result = result_of(frame, **changes)
    sent = chunks(frame)
    return await federation.intake.take(ticket.client, ticket.id, result, 0, sent)


def take(federation: Federation, ticket: Ticket, frame: bytes, **changes: Any) -> int:
    return asyncio.run(taken(federation, ticket, frame, **changes))


class Aborted(Exception):  # noqa: N818 (as gRPC has it)
    def __init__(self, status: Any, text: str, trailers: tuple[tuple[str, str], ...]) -> None:
        super().__init__(text)
        self.status, self.text, self.trailers = status, text, dict(trailers)


class Context:
    """What gRPC says of a call."""

    def __init__(
        self, auth: dict[str, list[bytes]] | None = None, metadata: tuple[Any, ...] = ()
    ) -> None:
        self._auth, self._metadata = auth or {}, metadata

    def auth_context(self) -> dict[str, list[bytes]]:
        return self._auth

    def invocation_metadata(self) -> tuple[Any, ...]:
        return self._metadata

    async def abort(self, status: Any, text: str, trailers: Any = ()) -> NoReturn:
        raise Aborted(status, text, trailers)
