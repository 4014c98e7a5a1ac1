"""The course of a live federation: who is asked when, and what becomes of what they send."""

import asyncio
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, TypeAlias, cast

from fedloom.codecs.base import Codec
from fedloom.codecs.frame import OVERHEAD
from fedloom.core.job import Stage
from fedloom.core.job_devices import device_by_tier
from fedloom.core.registry import create
from fedloom.core.types import (
    ClientId,
    ClientTask,
    Cohort,
    Metrics,
    Params,
    RoundReport,
    State,
)
from fedloom.results.observe import Observer
from fedloom.server.admission import everything
from fedloom.server.board import Board
from fedloom.server.client_evaluation import evaluate_on_clients
from fedloom.server.contents import Contents
from fedloom.server.counting import Counting
from fedloom.server.course import Judge, Played, drawn_for
from fedloom.server.deadline import Deadline
from fedloom.server.failpoints import reach
from fedloom.server.gate import Gate
from fedloom.server.gathering import Gathering
from fedloom.server.intake import Intake
from fedloom.server.judged import judged
from fedloom.server.ledger import Ledger
from fedloom.server.live_round import LiveRound, Stopped, TooFewError
from fedloom.server.memories import remembered
from fedloom.server.plan import Plan
from fedloom.server.publishing import Published, Publishing
from fedloom.server.records import OpenRound
from fedloom.server.register import Register
from fedloom.server.remembered import Remembered
from fedloom.server.round import run_round
from fedloom.server.segments import Segments
from fedloom.server.selection import choose, count, placed
from fedloom.server.standing import Standing
from fedloom.strategies.base import Strategy

if TYPE_CHECKING:
    from fedloom.server.split_hosting import Hosting

__all__ = ["Live", "Showing", "Stopped"]

Showing: TypeAlias = Callable[[Standing], None]


@dataclass(eq=False)
class Live:
    """Plays a job with the clients that check in (`fedloom.server.course.Playing`).

    Runs in a thread of its own: strategies and evaluations never keep a client waiting.

    Attributes:
        plan: the job.
        board: offers, presence and events.
        intake: takes results.
        ledger: what was acknowledged.
        register: who is paused, benched or quarantined.
        segments: acknowledged payloads.
        contents: what clients may download.
        observer: told of what is waited for.
        show: given every change of where the federation stands.
        standing: where it stands.
        counting: what the calls of clients count.
        hosting: of the far side of a split model; None where nothing is hosted.
    """

    plan: Plan
    board: Board
    intake: Intake
    ledger: Ledger
    register: Register
    segments: Segments
    contents: Contents
    observer: Observer
    show: Showing
    standing: Standing = field(default_factory=lambda: Standing(""))
    counting: Counting = field(default_factory=Counting)
    hosting: "Hosting | None" = None
    _played: State | None = None
    _publishing: Publishing = field(init=False)
    _seconds: list[float] = field(default_factory=list)
    _began: float = 0.0

    def __post_init__(self) -> None:
        self._publishing = Publishing(self.plan, self.contents)

    def play(self, index: int, state: State, *, first: int, last: int) -> Iterator[Played]:
        """Play rounds `first` to `last` of a stage; one that a crash cut short goes on.

        Raises:
            Stopped: the server is told to end.
        """
        stage = self.plan.job.stages[index]
        strategy = cast(Strategy, create("strategies", stage.strategy))
        later = sum(later.rounds for later in self.plan.job.stages[index + 1 :])
        self._stand(rounds=last + later)
        stands = strategy, self.plan.job, index, state
        with remembered(*stands, done=first - 1, prunes=self.plan.prunes) as kept:
            for number in range(first, last + 1):
                state, report = self._round(number, index, strategy, state, kept)
                state, report = judged(strategy, state, report, partial(self._candidate, index))
                seconds = time.perf_counter() - self._began
                self._seconds.append(seconds)
                self._played = state
                reach("round-played")
                mean = math.fsum(self._seconds) / len(self._seconds)
                self._stand(**self.standing.carried(report.cost), seconds_per_round=mean)
                yield Played(stage.name, state, report, seconds)

    def judge(self, index: int, params: Params) -> Judge:
        """Evaluates models on the server's own examples and on clients', as the job asks."""
        ours = self.plan.judging(index, params) if self.plan.judging else None

        def judge(model: Params) -> Metrics:
            self._stand(phase="evaluating")
            found = {**(ours(model) if ours else {}), **self._asked_of_clients(index, model)}
            self._stand(evaluation=found)
            return found

        return judge

    def _candidate(self, index: int, model: Params) -> Metrics:
        """Evaluates a model that a strategy asks about, on the server's own examples."""
        self._stand(phase="evaluating")
        return self.plan.judging(index, model)(model) if self.plan.judging else {}

    @property
    def _gathering(self) -> Gathering:
        server, note = self.plan.job.server, self.observer.note
        return Gathering(self.board, self.register, server, note, self._stand)

    def reachable(self, address: str, port: int, enrol_port: int) -> None:
        """Say where clients reach this server."""
        self._stand(address=address, port=port, enrol_port=enrol_port)

    def ended(self, done: int, *, interrupted: bool) -> None:
        """There are no more rounds after so many, or none of this process."""
        self._stand(phase="stopped" if interrupted else "finished")
        if not interrupted:
            self.board.finish(f"all {done} rounds are done")

    def _asked_of_clients(self, index: int, model: Params) -> Metrics:
        job, number = self.plan.job, self.standing.round
        some = job.server.evaluate_clients
        if not some:
            return {}
        server = job.server
        there = self._gathering.some(min(some, server.min_clients), server.patience)
        self._stand(phase="evaluating", present=len(there))
        known = self._played is not None and self._played.params is model
        state = self._played if known and self._played else State(model, number)
        models = self._publishing.model(index, state, number)
        task = ClientTask("", number, number, selectors=job.stages[index].selectors, seed=job.seed)
        return evaluate_on_clients(
            self.board,
            choose(there, some, seed=job.seed, number=number),
            (task, index),
            models,
            seconds=job.server.patience,
        )

    def _round(
        self, number: int, index: int, strategy: Strategy, state: State, kept: Remembered
    ) -> tuple[State, RoundReport]:
        job, stage = self.plan.job, self.plan.job.stages[index]
        up = cast(Codec, create("codecs", job.up(index)))
        published = self._publishing.round(index, strategy, state, number - 1)
        drawn = drawn_for(state, number)
        while True:
            opened = self._open(number, index, stage, drawn)
            self._began = time.perf_counter()  # waiting for clients is no part of a round
            terms = (job.seed, job.tiers, self.plan.cuts, stage.rounds)
            cohort = Cohort(number, opened.cohort, stage.local, stage.selectors, *terms)
            dispatch = self._dispatch(opened, index, up, state.params, published)
            self._stand(phase="training", asked=len(cohort.clients), arrived=0, refused=0)
            far, bound = self.hosting, job.server.norm_bound
            whole = far.whole(dispatch, state.params, bound) if far else dispatch
            try:
                own = strategy, state, cohort, whole
                return asyncio.run(run_round(*own, decode=up.decode, kept=kept))
            except TooFewError:
                self.observer.note(
                    f"round {number}: {len(dispatch.answered)} updates, fewer than "
                    f"{dispatch.deadline.minimum}; asking others too"
                )
                self._begin(number, index, stage, drawn, dispatch)

    def _dispatch(
        self, opened: OpenRound, index: int, up: Codec, params: Params, published: Published
    ) -> LiveRound:
        server, size = self.plan.job.server, self.plan.job.stages[index].clients_per_round
        asked = len(opened.cohort)
        aimed = min(size, asked)
        goal, least = (count(share, aimed) for share in (server.goal, server.minimum))
        terms = Deadline(
            asked=asked, goal=goal, minimum=least, patience=server.patience, longest=server.longest
        )
        return LiveRound(
            opened,
            index,
            published.models,
            terms,
            partial(self._gate, params, up, published.models.content.size, opened),
            self.board,
            self.intake,
            self.ledger,
            self.segments,
            branches=published.branches,
            last=opened.attempt > server.attempts,
            ticking=lambda answered, gone: self._stand(arrived=answered, refused=gone),
        )

    def _gate(
        self,
        params: Params,
        up: Codec,
        bytes_down: int,
        opened: OpenRound,
        tasks: Mapping[ClientId, ClientTask],
    ) -> Gate:
        server, by_tier = self.plan.job.server, device_by_tier(self.plan.job)
        known = {client.id: client for client in opened.cohort}
        return Gate(
            tasks,
            params.layout,
            up.decode,
            bytes_down=bytes_down,
            norm_bound=server.norm_bound,
            max_examples=server.max_examples,
            largest=OVERHEAD + 1024 + 8 * params.layout.size,
            travels=self.plan.split.up if self.plan.split else everything,
            device_of=lambda client: by_tier(known[client].tier),
            examples_of=lambda client: known[client].num_examples,
            prunes=self.plan.prunes,
        )

    def _open(self, number: int, index: int, stage: Stage, drawn: int) -> OpenRound:
        """The round as the ledger has it, begun with those who are there where it is new."""
        found = self.ledger.current()
        if found is None or found.number != number:
            self._begin(number, index, stage, drawn)
            found = self.ledger.current()
        assert found is not None
        return found

    def _begin(
        self,
        number: int,
        index: int,
        stage: Stage,
        drawn: int,
        before: LiveRound | None = None,
    ) -> None:
        """Ask clients; where too few of those asked `before` answered, others too."""
        attempt = before.opened.attempt + 1 if before else 1
        self._stand(round=number, stage=stage.name)
        server, seed = self.plan.job.server, self.plan.job.seed
        size = count(server.over_select, stage.clients_per_round)
        there = self._gathering.enough(again=before is not None)
        kept = before.kept if before else ()
        others = before.others(there) if before else there
        chosen = choose(others, size - len(kept), seed=seed, number=drawn, attempt=attempt)
        reach("clients-chosen")
        if before is None:
            self.ledger.begin(number, attempt, index, chosen)
            self.intake.begin_round()
            if self.hosting is not None:
                self.hosting.clear()
        else:
            self.ledger.widen(placed(before.opened.cohort, kept, chosen))

    def _stand(self, **changes: object) -> None:
        changes = {"resyncs": self.counting.resyncs, **changes}
        standing = replace(self.standing, **changes)  # type: ignore[arg-type]  # names are fields
        if standing != self.standing:
            self.standing = standing
            self.show(standing)
