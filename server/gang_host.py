"""A stage whose sessions step together (mode ``concat``): who is late is not waited for."""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from torch import Tensor

from fedloom.backbones.base import Packing
from fedloom.core.errors import FedloomError, SplitError
from fedloom.core.types import ClientId
from fedloom.tuning.far import FarLosses
from fedloom.tuning.gang import Batch, Gang
from fedloom.tuning.stage import Stage
from fedloom.tuning.targets import Places

__all__ = ["GangHost"]

_NAME = "gang"


@dataclass(eq=False)
class _Meeting:
    """What sessions bring to one pass.

    Attributes:
        ends: when those who are there go on without the others.
        brought: by session.
        found: by session; None before the pass.
        error: what the pass ended with.
    """

    ends: float
    brought: dict[str, Any] = field(default_factory=dict)
    found: Mapping[str, Any] | None = None
    error: FedloomError | None = None


@dataclass(eq=False)
class _Step:
    """A pass whose gradients are waited for."""

    number: int
    members: frozenset[str]
    meeting: _Meeting | None = None


class GangHost:
    """A `Host` of one stage whose sessions run, and step, as one. Each session has its own thread.

    A pass begins when every session that is there has brought its batch, or `patience` after the
    first did. Who missed one is waited for again once it brings the next. The first pass also waits
    for the clients that are expected. Batches lie in the order in which clients are expected, so
    that it does not matter who comes first.

    Args:
        stage: the far blocks, of mode ``concat``.
        patience: seconds that the first waits for the last.
        most: sessions at once.
        clock: seconds.
    """

    def __init__(
        self,
        stage: Stage,
        *,
        patience: float,
        most: int = 1024,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.stage, self._patience, self._clock = stage, patience, clock
        self._gang = Gang(stage, _NAME, most)
        self._turn = threading.Condition(threading.RLock())
        self._live: set[str] = set()
        self._places: dict[ClientId, int] = {}
        self._awaited: set[ClientId] = set()
        self._forming: _Meeting | None = None
        self._numbers = count(1)
        self._steps: dict[tuple[str, int], _Step] = {}

    def expect(self, clients: Sequence[ClientId], *, wait: bool) -> None:
        """Let batches lie in the order of their clients; those who are known keep their places.

        Args:
            clients: who may come.
            wait: the next pass waits for those who are new here.
        """
        with self._turn:
            new = [client for client in clients if client not in self._places]
            self._places |= {client: len(self._places) + i for i, client in enumerate(new)}
            self._awaited |= set(new) if wait else set()

    def give_up(self, client: ClientId) -> None:
        """A client will not come."""
        with self._turn:
            self._awaited.discard(client)
            self._turn.notify_all()

    def version(self, key: str) -> int:
        """See `Host.version`."""
        with self._turn:
            return self.stage.version(_NAME)

    def lane(self, key: str) -> str:
        """See `Host.lane`."""
        return ""

    def kept(self, key: str) -> dict[str, Tensor]:
        """See `Host.kept`."""
        with self._turn:
            return {name: t.clone() for name, t in self.stage.lane().state().items()}

    def moved(self, key: str = "") -> Tensor:
        """See `Host.moved`."""
        with self._turn:
            return self.stage.lane().store.deltas()

    def load(self, key: str, state: Mapping[str, Tensor], done: int) -> None:
        """See `Host.load`."""
        with self._turn:
            self.stage.lane().load(state)
            self._awaited.clear()

    def join(self, key: str) -> None:
        """See `Host.join`."""
        with self._turn:
            self._live.add(key)

    def forward(
        self, key: str, step: int, hidden: Tensor, packing: Packing, *, train: bool
    ) -> Tensor:
        """See `Host.forward`."""
        with self._turn:
            if not train:
                return self.stage.forward(_NAME, step, hidden, packing, train=False)
            self._check(key, hidden, packing)
            out, joint = self._meet_below(key, Batch(hidden, packing), self._pass)
            self._steps[key, step] = joint
            found: Tensor = out
            return found

    def backward(self, key: str, step: int, grad: Tensor) -> Tensor:
        """See `Host.backward`."""
        with self._turn:
            joint = self._steps.pop((key, step), None)
            if joint is None or (joint.meeting and joint.meeting.found is not None):
                text = "the others have gone on" if joint else "not held"
                raise SplitError(f"step {step}: {text}; send it again", code="evicted")
            if joint.meeting is None:
                joint.meeting = _Meeting(self._clock() + self._patience)
            found: Tensor = self._meet(
                joint.meeting,
                key,
                grad,
                lambda: joint.members & self._live,
                lambda grads: self._gang.backward(joint.number, grads),
            )
            return found

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
        """See `Host.losses`."""
        with self._turn:
            if not train:
                return self.stage.losses(_NAME, step, hidden, packing, places, train=False)
            self._check(key, hidden, packing, places)
            number = self._numbers
            found: tuple[FarLosses, Tensor] = self._meet_below(
                key,
                Batch(hidden, packing, places),
                lambda batches: self._gang.losses(next(number), batches),
            )
            return found

    def evict(self, key: str, step: int | None = None) -> None:
        """See `Host.evict`."""
        with self._turn:
            for name in [n for n in self._steps if n[0] == key and step in (None, n[1])]:
                del self._steps[name]
            if step is None:
                self._live.discard(key)
                self._turn.notify_all()

    def leave(self, key: str) -> None:
        """See `Host.leave`."""
        self.evict(key)

    def _check(
        self, key: str, hidden: Tensor, packing: Packing, places: Places | None = None
    ) -> None:
        """Refuse what is wrong with one batch before the others have anything to do with it."""
        if packing.clients != 1:
            text = f"{packing.clients} clients; a session of a gang is one"
            raise SplitError(f"session {key}: {text}", code="shape")
        self.stage.check(f"session {key}", hidden, packing, places)

    def _pass(self, batches: Mapping[str, Batch]) -> dict[str, tuple[Tensor, _Step]]:
        number = next(self._numbers)
        joint = _Step(number, frozenset(batches))
        found = self._gang.forward(number, batches)
        return {key: (out, joint) for key, out in found.items()}

    def _meet_below(
        self, key: str, batch: Batch, work: Callable[[Mapping[str, Batch]], Mapping[str, Any]]
    ) -> Any:
        """Bring a batch to the pass that forms."""
        self._live.add(key)
        self._awaited.discard(_client(key))
        if self._forming is None:
            self._forming = _Meeting(self._clock() + self._patience)
        meeting = self._forming

        def begin(batches: Mapping[str, Batch]) -> Mapping[str, Any]:
            self._forming = None
            self._live &= batches.keys()
            self._awaited.clear()
            return work({key: batches[key] for key in sorted(batches, key=self._place)})

        return self._meet(meeting, key, batch, lambda: self._live | self._awaited, begin)

    def _place(self, key: str) -> int:
        """Of a session; who is not expected comes last, whoever was there first before others."""
        return self._places.get(_client(key), len(self._places))

    def _meet(
        self,
        meeting: _Meeting,
        key: str,
        thing: Any,
        expected: Callable[[], set[str] | frozenset[str]],
        work: Callable[[Mapping[str, Any]], Mapping[str, Any]],
    ) -> Any:
        """Wait for the others, within the patience; whoever completes the meeting does the work."""
        meeting.brought[key] = thing
        while meeting.found is None:
            left = meeting.ends - self._clock()
            if left > 0 and not expected() <= meeting.brought.keys():
                self._turn.wait(left)
                continue
            meeting.found = {}
            try:
                meeting.found = work(meeting.brought)
            except FedloomError as error:
                meeting.error = error
            self._turn.notify_all()
        if meeting.error is not None:
            raise meeting.error
        return meeting.found[key]


def _client(key: str) -> ClientId:
    """Whose a session is."""
    return key.rpartition("/")[0]
