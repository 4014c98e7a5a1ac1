"""The far blocks of a live job, hosted round by round beside the calls that hand out its work.

A round's sessions are those of its plan. What they come to is on the disk until the next round is
begun, which happens only once the round's state is.
"""

import asyncio
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedloom.core.errors import SplitError, TransferError
from fedloom.core.split import session_plan
from fedloom.core.types import ClientId, ClientTask, Params
from fedloom.server.failpoints import reach
from fedloom.server.live_round import LiveRound
from fedloom.server.records import OpenRound
from fedloom.server.split_course import Course
from fedloom.server.split_dispatch import SplitDispatch
from fedloom.server.split_plan import SplitPlan
from fedloom.server.split_room import Room
from fedloom.server.split_round import SplitRound
from fedloom.server.split_sessions import Sessions

__all__ = ["Hosting"]

_BODIES = 1 << 30
"""Bytes that bodies of all sessions may take."""
_AGAIN = 0.5
"""Seconds after which to ask again for a round that is about to begin."""


@dataclass(eq=False)
class Hosting:
    """Begins the far side of every round, and knows the present one.

    `begin`, `over` and `clear` are for the thread of the rounds, the rest for the calls' loop.

    Attributes:
        split: how the job is split.
        folder: where steps are written down; nothing else is in it.
        job: SHA-256 of the job's manifest.
        most: clients that are asked at once.
        room: for bodies.
        course: where everything that touches the far blocks is done.
        loop: of the calls; None before there are any.
        present: the round that is open.
    """

    split: SplitPlan
    folder: Path
    job: str
    most: int
    room: Room = field(default_factory=lambda: Room(_BODIES))
    course: Course = field(init=False)
    loop: asyncio.AbstractEventLoop | None = None
    present: SplitRound | None = None

    def __post_init__(self) -> None:
        # Sessions that step together wait for each other; as many may wait that are gone by now.
        waiting = 2 * self.most if self.split.mode == "concat" else 0
        self.course = Course(1 + waiting)

    def begin(
        self, opened: OpenRound, params: Params, tasks: Mapping[ClientId, ClientTask]
    ) -> SplitRound:
        """The far side of a round, begun, taken up after a restart, or there for more clients.

        Args:
            opened: the round.
            params: the model that it begins with.
            tasks: what its clients were asked.

        Raises:
            FedloomError: the model cannot be cut so, or the folder cannot be used.
        """
        number = opened.number
        if self.present is None or self.present.number != number:
            self.folder.mkdir(parents=True, exist_ok=True)
            plan = session_plan(self.job, number)
            found = SplitRound(
                number, plan, self.split, params, self.folder, self.course, 2 * self.most
            )
        else:
            found = self.present
        if opened.closed:
            found.over = _over(number)
        found.ask(tasks, opened.cohort)
        self.present = found
        reach("far-begun")
        return found

    def whole(self, round: LiveRound, params: Params, norm_bound: float) -> SplitDispatch:
        """A round's dispatch with its far side; see `SplitDispatch`."""
        return SplitDispatch(round, self, params, norm_bound)

    def of(self, client: ClientId, message: Any) -> Sessions:
        """See `fedloom.server.split_service.Finding`."""
        present = self.present
        if present is not None and message.plan == present.plan:
            return present.of(client, message)
        if present is None:
            text = "no round has begun since this server was started"
            raise TransferError(text, code="busy", retry_after=_AGAIN)
        text = f"plan = {message.plan[:100]!r}; open is round {present.number}, {present.plan!r}"
        raise SplitError(text, code="plan")

    def over(self) -> None:
        """The present round takes no more results: nothing of it moves any more."""
        present = self.present
        if present is None:
            return
        why = _over(present.number)
        if self.loop is None or not self.loop.is_running():
            present.end(why)
            return
        present.over = why
        self.loop.call_soon_threadsafe(present.end, why)

    def clear(self) -> None:
        """Forget all rounds: what came of them is safe, or will be done anew.

        Raises:
            OSError: a file cannot be removed.
        """
        if self.present is not None:
            self.over()
            self.present.close()
        self.present = None
        if self.folder.exists():
            shutil.rmtree(self.folder)

    def close(self) -> None:
        """Let go of everything; what is written down stays."""
        if self.present is not None:
            self.present.close()
        self.course.close()


def _over(number: int) -> str:
    return f"round {number} takes no more results"
