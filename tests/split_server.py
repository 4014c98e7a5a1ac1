"""Far blocks of one number on loopback, in a thread or in a process of their own."""

import asyncio
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from fedloom.backbones.base import Packing
from fedloom.security.authority import Authority
from fedloom.server.counting import Counting
from fedloom.server.listen import Anyone, Certified, bind, new_server
from fedloom.server.register import Register
from fedloom.server.split_course import Course
from fedloom.server.split_host import Host, Terms
from fedloom.server.split_journal import Journal
from fedloom.server.split_room import Room
from fedloom.server.split_service import SplitCalls
from fedloom.server.split_sessions import Sessions
from fedloom.tuning.far import FarLosses
from fedloom.tuning.targets import Places

WIDTH = 4
TERMS = Terms("tiny", 2, 4, WIDTH, dtype="float64", max_length=16, patience=5.0)


@dataclass
class Scaling:
    """Multiplies by one trained number: y = w x, dx = w dy, w <- w - lr sum(dy x).

    With labels the loss of a client is the sum of its ``y``, whatever they are.

    Attributes:
        weight: w.
        lr: of its steps.
        before: called with a word before each call, to be slow or to fail.
    """

    weight: float = 2.0
    lr: float = 0.01
    steps: int = 0
    before: Callable[[str], object] = lambda _: None
    held: dict[tuple[str, int], Tensor] = field(default_factory=dict)
    calls: Counter[str] = field(default_factory=Counter)

    def version(self, key: str) -> int:
        return self.steps

    def lane(self, key: str) -> str:
        return ""

    def kept(self, key: str) -> dict[str, Tensor]:
        return {"weight": torch.tensor([self.weight, self.steps], dtype=torch.float64)}

    def moved(self, key: str) -> Tensor:
        return torch.tensor([[self.weight]])

    def load(self, key: str, state: Mapping[str, Tensor], done: int) -> None:
        weight, steps = state["weight"].tolist()
        self.weight, self.steps = weight, int(steps)

    def join(self, key: str) -> None:
        self.calls["join"] += 1

    def forward(
        self, key: str, step: int, hidden: Tensor, packing: Packing, *, train: bool
    ) -> Tensor:
        self._called("forward")
        if train:
            self.held[key, step] = hidden
        return hidden * self.weight

    def backward(self, key: str, step: int, grad: Tensor) -> Tensor:
        self._called("backward")
        out = grad * self.weight
        self._step(grad, self.held.pop((key, step)))
        return out

    def losses(
        self,
        key: str,
        step: int,
        hidden: Tensor,
        packing: Packing,
        places: Places,
        *,
        train: bool,
    ) -> tuple[FarLosses, Tensor]:
        self._called("losses")
        ones = torch.ones_like(hidden)
        loss, grad = (hidden * self.weight).sum((1, 2)).float(), ones * self.weight
        n = torch.from_numpy(places.target)
        if train:
            self._step(ones, hidden)
        return FarLosses(loss, loss * 0, loss * 0 + 1, n.float() / 3, n), grad

    def evict(self, key: str, step: int | None = None) -> None:
        self.calls["evict"] += 1
        for name in list(self.held):
            if name[0] == key and step in (None, name[1]):
                del self.held[name]

    def leave(self, key: str) -> None:
        self.calls["leave"] += 1
        self.evict(key)

    def _called(self, what: str) -> None:
        self.calls[what] += 1
        self.before(what)

    def _step(self, grad: Tensor, hidden: Tensor) -> None:
        self.weight -= self.lr * float((grad * hidden).sum())
        self.steps += 1


@dataclass
class Serving:
    """A server that runs.

    Attributes:
        port: where.
        sessions: its sessions.
        room: for bodies.
        counting: its refusals.
    """

    port: int
    sessions: Sessions
    room: Room
    counting: Counting


@contextmanager
def serving(
    host: Host,
    terms: Terms = TERMS,
    *,
    room: int = 1 << 26,
    authority: Authority | None = None,
    register: Register | None = None,
    threads: int = 1,
    journal: Journal | None = None,
) -> Iterator[Serving]:
    """Serve in a thread, with mutual TLS where there is an authority."""
    loop, found = asyncio.new_event_loop(), []
    ready, end = threading.Event(), asyncio.Event()

    async def run() -> None:
        door: Callable[[object], str] | None = None
        if authority is not None and register is not None:
            door = Certified(authority.federation, register)
        sessions = Sessions(host, terms, Course(threads), journal)
        calls = SplitCalls(door or Anyone(), sessions, Room(room))
        keys = authority.server_identity() if authority else None
        server = new_server()
        server.add_generic_rpc_handlers((calls.handler(),))
        port = bind(server, "127.0.0.1", 0, keys, authority)
        await server.start()
        found.append(Serving(port, sessions, calls.room, calls.counting))
        ready.set()
        await end.wait()
        await server.stop(0.2)
        sessions.course.close()

    thread = threading.Thread(target=loop.run_until_complete, args=(run(),))
    thread.start()
    try:
        assert ready.wait(10)
        yield found[0]
    finally:
        loop.call_soon_threadsafe(end.set)
        thread.join(10)
        loop.close()


async def _alone(folder: Path, port: int) -> None:
    host = Scaling()
    sessions = Sessions(host, TERMS, Course(), Journal(folder / "split.sqlite"))
    calls = SplitCalls(Anyone(), sessions, Room(1 << 26))
    server = new_server()
    server.add_generic_rpc_handlers((calls.handler(),))
    print(bind(server, "127.0.0.1", port, None), flush=True)
    await server.start()
    await server.wait_for_termination()


def main(words: Sequence[str]) -> None:
    """Serve until somebody ends it: FOLDER PORT."""
    folder, port = words
    asyncio.run(_alone(Path(folder), int(port)))
