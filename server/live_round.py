"""One live round's dispatch: offers out, updates in as they are acknowledged, until it is over."""

import json
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from fedloom.core.config import to_table
from fedloom.core.errors import UpdateRefusedError
from fedloom.core.types import Client, ClientId, ClientTask, ClientUpdate, Refusal
from fedloom.server.board import Board, Event, GaveUp, Offer, Stopping
from fedloom.server.contents import Content
from fedloom.server.deadline import Deadline
from fedloom.server.failpoints import reach
from fedloom.server.gate import Gate
from fedloom.server.intake import Intake
from fedloom.server.ledger import Ledger
from fedloom.server.models import Models
from fedloom.server.records import OpenRound, Ticket, Written
from fedloom.server.segments import Segments
from fedloom.strategies.contract import check_branches

__all__ = ["LiveRound", "Stopped", "TooFewError", "order_of", "pause"]

TICK = 0.5
"""Seconds between looks at the clock while nothing arrives."""


class Stopped(Exception):  # noqa: N818 (nothing is wrong)
    """The server is about to end; the round goes on when it is started again."""


class TooFewError(Exception):
    """Fewer updates came than the round needs."""


@dataclass(eq=False)
class LiveRound:
    """Dispatches the tasks of one round (`fedloom.server.round.Dispatch`).

    What an earlier process acknowledged in this round comes first, from the disk.

    Attributes:
        opened: the round, as the ledger has it.
        stage: index of its stage.
        models: what clients download.
        deadline: on what terms it waits.
        gate: makes the gate for the tasks that the strategy gave.
        board: where offers hang out.
        intake: takes results while the round is open.
        ledger: what was acknowledged.
        segments: the bytes of it.
        branches: models beside it that tasks start from, by name.
        last: whether the round is applied even below its minimum.
        ticking: called every now and then with the numbers of answered and gone clients.
        began: `time.monotonic` at which this process took the round up.
        answered: clients whose update was yielded.
        gone: clients that will not answer.
        arrivals: ages of the round at which results came, in seconds, ascending.
    """

    opened: OpenRound
    stage: int
    models: Models
    deadline: Deadline
    gate: Callable[[Mapping[ClientId, ClientTask]], Gate]
    board: Board
    intake: Intake
    ledger: Ledger
    segments: Segments
    branches: Mapping[str, Content] = field(default_factory=dict)
    last: bool = False
    ticking: Callable[[int, int], None] = lambda answered, gone: None
    began: float = field(default_factory=time.monotonic)
    answered: set[ClientId] = field(default_factory=set)
    gone: set[ClientId] = field(default_factory=set)
    arrivals: list[float] = field(default_factory=list)

    async def __call__(
        self, tasks: Mapping[ClientId, ClientTask]
    ) -> AsyncIterator[ClientUpdate | Refusal]:
        """Hand tasks out and yield what comes.

        Raises:
            Stopped: the server is told to end.
            TooFewError: it is over with fewer updates than its minimum; they stay in the ledger.
        """
        check_branches(tasks.values(), self.branches)
        gate, self.deadline = self.gate(tasks), self.deadline.among(len(tasks))
        for written in self.ledger.written(self.opened.number):
            yield self._again(gate, written)
        if not self.opened.closed:
            self.intake.gate = gate
            self.board.offer(self._offers(tasks, gate))
            reach("offers-out")
            try:
                for found in self._until_over(len(tasks), gate):
                    yield found
            finally:
                self.board.withdraw()
                self.intake.gate = None
            if len(self.answered) + len(self._rest()) < self.deadline.minimum and not self.last:
                raise TooFewError
            reach("offers-in")
            self.ledger.close(self.opened.number)
        for written in self._rest():
            yield self._again(gate, written)
        reach("updates-folded")

    def once_more(self, tasks: Mapping[ClientId, ClientTask]) -> Iterator[ClientUpdate]:
        """All updates that were taken, read from the disk again, one at a time."""
        gate = self.gate(tasks)
        for written in self.ledger.written(self.opened.number):
            result = written.result
            payload = self.segments.read(written.place) if result.size else None
            yield gate.update(written.ticket, result, payload)

    @property
    def kept(self) -> tuple[Client, ...]:
        """Those of the cohort whose update came."""
        return tuple(client for client in self.opened.cohort if client.id in self.answered)

    def others(self, there: Sequence[Client]) -> Sequence[Client]:
        """Whom of those that are there to ask next; who gave up only where there is nobody else."""
        others = [client for client in there if client.id not in self.answered]
        return [client for client in others if client.id not in self.gone] or others

    def _rest(self) -> list[Written]:
        """What is acknowledged and not yielded yet."""
        found = self.ledger.written(self.opened.number)
        return [w for w in found if w.ticket.client not in self.answered]

    def _again(self, gate: Gate, written: Written) -> ClientUpdate | Refusal:
        """An acknowledged update, from the disk; refused where its client's task is another now."""
        self.answered.add(written.ticket.client)
        self.arrivals.append(self._age())
        reach("update-replayed")
        result = written.result
        payload = self.segments.read(written.place) if result.size else None
        try:
            return gate.update(written.ticket, result, payload)
        except UpdateRefusedError as error:
            return Refusal(written.ticket.client, str(error))

    def _until_over(self, asked: int, gate: Gate) -> Iterator[ClientUpdate | Refusal]:
        while not self._over(asked):
            event = self.board.next(TICK)
            if isinstance(event, Stopping):
                raise Stopped
            if event is not None and event.ticket.round == self.opened.number:
                yield from self._take(event, gate)
            self.ticking(len(self.answered), len(self.gone))

    def _take(self, event: Event, gate: Gate) -> Iterator[ClientUpdate | Refusal]:
        assert not isinstance(event, Stopping)
        client = event.ticket.client
        if event.ticket.kind != "train" or client in self.answered or client in self.gone:
            return
        if isinstance(event, GaveUp):
            self.gone.add(client)
            yield Refusal(client, event.reason)
            return
        if event.update is None:
            yield self._again(gate, self.ledger.result(event.seq))
            return
        self.answered.add(client)
        self.arrivals.append(self._age())
        yield event.update

    def _over(self, asked: int) -> bool:
        if len(self.answered) + len(self.gone) >= asked:
            return True
        return self.deadline.is_over(self._age(), self.arrivals)

    def _age(self) -> float:
        """Seconds since this process took the round up: nobody is late while there is no server."""
        return time.monotonic() - self.began

    def _offers(self, tasks: Mapping[ClientId, ClientTask], gate: Gate) -> list[Offer]:
        ends = time.monotonic() + self.deadline.longest - self._age()
        return [
            self._offer(self.opened.tickets[client], task, gate.largest, ends)
            for client, task in tasks.items()
            if client not in self.answered
        ]

    def _offer(self, ticket: Ticket, task: ClientTask, largest: int, ends: float) -> Offer:
        order = order_of(task, self.stage)
        own = self.branches[task.branch] if task.branch else self.models.cut(task.rank)
        model, forms = (self.models.content, self.models) if own is None else (own, None)
        return Offer(ticket, order, model.sha256, model.size, ends, largest, forms)


def pause(board: Board, seconds: float) -> None:
    """Wait while no round is open; what happens then is of no consequence but the end.

    Raises:
        Stopped: it has come.
    """
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        if isinstance(board.next(left), Stopping):
            raise Stopped


def order_of(task: ClientTask, stage: int) -> str:
    """A work order as it travels (JSON)."""
    return json.dumps({"task": to_table(task), "stage": stage}, separators=(",", ":"))
