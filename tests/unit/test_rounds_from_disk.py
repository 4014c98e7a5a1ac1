"""A round takes updates from memory, or from the disk where they did not wait in memory."""

import asyncio
import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from small_server import models_of

from fedloom.codecs.dense import Float32
from fedloom.core.errors import RunError
from fedloom.core.layout import Layout, TensorSpec
from fedloom.core.types import Client, ClientTask, ClientUpdate, Delta, Refusal
from fedloom.server.board import Arrival, Board
from fedloom.server.committer import Committer
from fedloom.server.database import Database
from fedloom.server.deadline import Deadline
from fedloom.server.gate import Gate
from fedloom.server.intake import Intake
from fedloom.server.ledger import Ledger
from fedloom.server.live_round import LiveRound
from fedloom.server.records import Entry, Result
from fedloom.server.register import Register
from fedloom.server.segments import Segments
from fedloom.server.uploads import Uploads

LAYOUT = Layout((TensorSpec("w", (5,), block="layer.0"),))
NAMES = ("ann", "bob", "cy")
TASKS = {name: ClientTask(name, 1, 0) for name in NAMES}


def delta(name: str) -> Delta:
    return Delta(LAYOUT, np.full(5, float(NAMES.index(name) + 1), dtype=np.float32))


class Scene:
    """A ledger with a round of three clients, and its dispatch."""

    def __init__(self, folder: Path) -> None:
        self.database = Database.open(folder / "state", exclusive=True)
        self.ledger, self.board = Ledger(self.database), Board()
        self.segments = Segments(folder / "segments", (), size=1 << 20)
        self.tickets = self.ledger.begin(1, 1, 0, [Client(name, 3) for name in NAMES])
        self.committer = Committer(self.ledger, self.segments)
        uploads = Uploads(folder / "staging", 1 << 20)
        register = Register(self.database)
        intake = Intake(self.board, self.ledger, register, self.committer, uploads)
        opened = self.ledger.current()
        assert opened is not None
        terms = Deadline(asked=3, goal=3, minimum=1, patience=60.0, longest=600.0)
        self.dispatch = LiveRound(
            *(opened, 0, models_of(), terms),
            lambda tasks: Gate(tasks, LAYOUT, Float32().decode, 0, 0.0, 100, 1000),
            *(self.board, intake, self.ledger, self.segments),
        )

    def write(self, name: str) -> int:
        """Put a client's update on the disk; its number."""
        frame = Float32().encode(delta(name)).frame
        result = Result(len(frame), hashlib.sha256(frame).hexdigest(), "float32", 3)
        (place,) = self.segments.append([frame])
        (seq,) = self.ledger.record([Entry(self.tickets[name], result, place)])
        assert isinstance(seq, int)
        return seq

    def announce(self, name: str, *, in_memory: bool) -> None:
        """Write an update, and tell the round as the intake does."""
        seq = self.write(name)
        update = ClientUpdate(name, 1, 3, delta=delta(name)) if in_memory else None
        self.board.events.put(Arrival(self.tickets[name], update, seq))

    def play(self) -> list[ClientUpdate | Refusal]:
        async def gather() -> list[ClientUpdate | Refusal]:
            return [found async for found in self.dispatch(TASKS)]

        return asyncio.run(gather())


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    scene = Scene(tmp_path)
    yield scene
    scene.committer.close()
    scene.segments.close()
    scene.database.close()


def test_what_did_not_wait_in_memory_is_read_from_the_disk(scene: Scene) -> None:
    # They arrive once the round is open: what the ledger has before is replayed at once.
    offered = scene.board.offer

    def announce(offers: object) -> None:
        offered(offers)  # type: ignore[arg-type]
        scene.announce("ann", in_memory=True)
        scene.announce("bob", in_memory=False)
        scene.announce("bob", in_memory=False)  # told twice, taken once
        scene.announce("cy", in_memory=False)

    scene.board.offer = announce  # type: ignore[method-assign]
    found = scene.play()
    assert [update.client for update in found] == list(NAMES)
    for update in found:
        assert isinstance(update, ClientUpdate)
        assert update.delta is not None
        assert update.delta.vector.tolist() == delta(update.client).vector.tolist()
        assert update.num_examples == 3


def test_a_result_that_is_not_in_the_ledger_is_an_error(scene: Scene) -> None:
    with pytest.raises(RunError, match="result 9 is not in the ledger"):
        scene.ledger.result(9)
