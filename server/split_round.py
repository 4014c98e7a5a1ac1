"""The far side of one live round: sessions with the round's model, and what they come to."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedloom.core.errors import ConfigError, SplitError
from fedloom.core.layout import Layout
from fedloom.core.types import Client, ClientId, ClientTask, Delta, Params
from fedloom.server.gang_host import GangHost
from fedloom.server.split_course import Course
from fedloom.server.split_journal import Journal, Moved
from fedloom.server.split_plan import SplitPlan
from fedloom.server.split_sessions import Sessions
from fedloom.server.stage_host import StageHost

__all__ = ["SplitRound"]


@dataclass(frozen=True, eq=False)
class _Side:
    """Far blocks for clients who were given the same work."""

    host: StageHost | GangHost
    sessions: Sessions
    journal: Journal

    @property
    def layout(self) -> Layout:
        return self.host.stage.trained


@dataclass(eq=False)
class SplitRound:
    """What is hosted in a round. Clients whose tasks differ have far sides of their own (``v1``).

    Attributes:
        number: of the round.
        plan: what both sides call it.
        split: how the job is split.
        params: the model that the round began with.
        folder: where steps are written down.
        course: where everything that touches a host is done.
        most: sessions at once.
        over: why no session begins or goes on any more; empty while they do.
        done: clients who have no part in it any more.
    """

    number: int
    plan: str
    split: SplitPlan
    params: Params
    folder: Path
    course: Course
    most: int
    over: str = ""
    done: set[ClientId] = field(default_factory=set)
    _sides: dict[str, _Side] = field(default_factory=dict)
    _of: dict[ClientId, _Side] = field(default_factory=dict)

    def ask(self, tasks: Mapping[ClientId, ClientTask], cohort: tuple[Client, ...]) -> None:
        """Be there for clients, with what an earlier process of this round has written down.

        Raises:
            ConfigError: they share the far tensors, and were asked for different work.
            FedloomError: a cut that the model cannot have, or a file that cannot be used.
        """
        self.done.clear()  # whose results are in will leave again
        for client, task in tasks.items():
            name = _name(task, self.split)
            if name not in self._sides:
                self._sides[name] = self._side(name, task)
            self._of[client] = self._sides[name]
        if self.split.shared and len(self._sides) > 1:
            text = "its clients were asked for different work; v1 allows it"
            raise ConfigError(f"split.mode = {self.split.config.mode!r}: {text}")
        self._expect(tasks, cohort)

    def of(self, client: ClientId, message: Any) -> Sessions:
        """See `fedloom.server.split_service.Finding`."""
        if self.over:
            raise SplitError(self.over, code="plan")
        if client not in self._of or client in self.done:
            why = "its result is in" if client in self._of else "it was not asked"
            text = f"nothing of this client is worked on in round {self.number}: {why}"
            raise SplitError(text, code="plan")
        return self._of[client].sessions

    def end(self, why: str) -> None:
        """Nothing moves any more. In the loop of the calls."""
        self.over = why
        for side in self._sides.values():
            side.sessions.end(why)

    def leave(self, client: ClientId) -> None:
        """A client has no part in the round any more: its result is in, or it gave up."""
        self.done.add(client)
        side = self._of.get(client)
        if side is not None and isinstance(side.host, GangHost):
            side.host.give_up(client)

    def moved(self, client: ClientId) -> tuple[Delta | None, Moved | None]:
        """What moved far away for a client (None for nothing), and what its legs took.

        Not in an event loop.
        """
        side = self._of[client]
        found = self.course.ask(side.sessions.moved, client)
        if not self.split.shared:
            return (_delta(side, found) if found else None), found
        common = self.course.ask(_common, side)
        return _delta(side, common), found

    def close(self) -> None:
        """Let go of the files."""
        for side in self._sides.values():
            self.course.ask(side.journal.close)

    def _side(self, name: str, task: ClientTask) -> _Side:
        stage = self.split.stage(task, self.params)
        host: StageHost | GangHost = StageHost(stage)
        if self.split.mode == "concat":
            host = GangHost(stage, patience=self.split.config.patience, most=self.most)
        journal = Journal(self.folder / f"{self.number}-{name}.sqlite")
        terms = self.split.terms(task, self.plan)
        return _Side(host, Sessions(host, terms, self.course, journal), journal)

    def _expect(self, tasks: Mapping[ClientId, ClientTask], cohort: tuple[Client, ...]) -> None:
        """Batches that step as one lie as in a simulation: those of who takes most steps first."""
        sizes = {client.id: client.num_examples for client in cohort}
        names = sorted(tasks, key=lambda name: -tasks[name].work.step_count(sizes[name]))
        for side in self._sides.values():
            if isinstance(side.host, GangHost):
                side.host.expect(names, wait=side.host.stage.lane().version == 0)


def _name(task: ClientTask, split: SplitPlan) -> str:
    """The same for clients whose far sides begin alike, in every process."""
    what = repr((split.cut_of(task), task.work, task.selectors.train))
    return hashlib.sha256(what.encode()).hexdigest()[:16]


def _common(side: _Side) -> Moved:
    lane = side.host.stage.lane()
    return Moved(lane.version, 0, 0, lane.store.deltas())


def _delta(side: _Side, moved: Moved) -> Delta | None:
    if not moved.version or not side.layout.size:
        return None
    return Delta(side.layout, moved.delta.cpu().numpy()[0].copy())
