"""A result whose client goes away while it is being settled, or whose disk is full."""

import asyncio
import hashlib
import zlib
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import cast

import numpy as np
import pytest

from fedloom.codecs.dense import Float32
from fedloom.core.errors import TransferError
from fedloom.core.layout import Layout, TensorSpec
from fedloom.core.types import Client, ClientTask, Delta
from fedloom.server.board import Arrival, Board, Offer
from fedloom.server.committer import Committer
from fedloom.server.database import Database
from fedloom.server.gate import Gate
from fedloom.server.intake import Intake
from fedloom.server.ledger import Ledger
from fedloom.server.records import Result, Ticket
from fedloom.server.register import Register
from fedloom.server.uploads import Uploads
from fedloom.server.wire import RawChunk

LAYOUT = Layout((TensorSpec("w", (5,), block="layer.0"),))
FRAME = Float32().encode(Delta(LAYOUT, np.ones(5, dtype=np.float32))).frame
RESULT = Result(len(FRAME), hashlib.sha256(FRAME).hexdigest(), "float32", num_examples=3)


class SlowDisk:
    """A committer whose answers the test gives."""

    def __init__(self) -> None:
        self.asked: list[Future[int]] = []

    def submit(self, ticket: Ticket, result: Result, payload: bytes | Path) -> "Future[int]":
        future: Future[int] = Future()
        future.set_running_or_notify_cancel()
        self.asked.append(future)
        return future


@pytest.fixture
def disk() -> SlowDisk:
    return SlowDisk()


@pytest.fixture
def intake(tmp_path: Path, disk: SlowDisk) -> Iterator[Intake]:
    """An intake with an open round of one client."""
    database = Database.open(tmp_path / "state", exclusive=True)
    ledger, board = Ledger(database), Board()
    ticket = ledger.begin(1, 1, 0, [Client("ann", 3)])["ann"]
    board.offer([Offer(ticket, "{}", "", 0, 0.0, 1000)])
    intake = Intake(
        board,
        ledger,
        Register(database),
        cast(Committer, disk),
        Uploads(tmp_path / "staging", 1 << 20),
    )
    tasks = {"ann": ClientTask("ann", 1, 0)}
    intake.gate = Gate(tasks, LAYOUT, Float32().decode, 0, 0.0, 100, 1000)
    yield intake
    intake.pool.shutdown()
    database.close()


async def chunks() -> AsyncIterator[RawChunk]:
    yield RawChunk(0, zlib.crc32(FRAME), memoryview(FRAME))


def taking(intake: Intake) -> "asyncio.Task[int]":
    offer = intake.board.offered("ann")
    assert offer is not None
    return asyncio.ensure_future(intake.take("ann", offer.ticket.id, RESULT, 0, chunks()))


async def asked(disk: SlowDisk, times: int = 1) -> None:
    while len(disk.asked) < times:
        await asyncio.sleep(0.001)


def test_a_client_that_leaves_before_its_receipt_has_handed_in(
    intake: Intake, disk: SlowDisk
) -> None:
    async def scene() -> None:
        task = taking(intake)
        await asked(disk)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        disk.asked[0].set_result(7)
        while intake.board.offered("ann"):
            await asyncio.sleep(0.001)

    asyncio.run(scene())
    event = intake.board.next(1.0)
    assert isinstance(event, Arrival)
    assert event.ticket.client == "ann"
    assert len(intake.uploads) == 0


def test_a_full_disk_leaves_nothing_that_stands_in_the_way_of_the_next_try(
    intake: Intake, disk: SlowDisk
) -> None:
    async def scene() -> int:
        first = taking(intake)
        await asked(disk)
        disk.asked[0].set_exception(TransferError("full", code="disk-full", retry_after=1.0))
        with pytest.raises(TransferError, match="full"):
            await first
        second = taking(intake)
        await asked(disk, 2)
        disk.asked[1].set_result(1)
        return await second

    assert asyncio.run(scene()) == 1
