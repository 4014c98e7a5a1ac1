"""The stages of a simulated run: rounds with one strategy and one way of training."""

import asyncio
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import cast

from fedloom.codecs.base import Codec
from fedloom.codecs.downlink import Downlink, follows
from fedloom.codecs.exchange import changed, received, sent_by
from fedloom.core.client_vectors import ClientVectors
from fedloom.core.interrupt import Interrupt
from fedloom.core.job import Stage
from fedloom.core.layout import ALL, NONE, Selector
from fedloom.core.registry import create
from fedloom.core.types import Cohort, Metrics, Params, State
from fedloom.server.course import Judge, Played, drawn_for
from fedloom.server.judged import judged
from fedloom.server.memories import remembered
from fedloom.server.round import run_round
from fedloom.simulation.attackers import attacked
from fedloom.simulation.branches import Cuts, branched
from fedloom.simulation.dispatch import dispatcher
from fedloom.simulation.federation import Federation
from fedloom.simulation.held import Held
from fedloom.simulation.setup import Prepared
from fedloom.strategies.base import Strategy
from fedloom.strategies.contract import briefing_of
from fedloom.tuning.base import Session
from fedloom.tuning.evaluate import Evaluator
from fedloom.tuning.examples import Examples
from fedloom.tuning.learning import Learner
from fedloom.tuning.own import holds
from fedloom.tuning.ranking import prunes
from fedloom.tuning.stage_session import StageSession

__all__ = ["Stages", "evaluator", "training_session"]


def worth_keeping(prepared: Prepared, stage: Stage) -> bool:
    """Whether an example is expected to be seen more than once in the stage."""
    cohort = min(stage.clients_per_round, len(prepared.population))
    visits = stage.rounds * cohort / len(prepared.population)
    passes = 1 if stage.local.steps else stage.local.epochs
    return passes * max(visits, 1.0) > 1.0


def training_session(
    prepared: Prepared, params: Params, stage: Stage, train: Selector | None = None
) -> Session:
    """The model set up to train a stage, or a part of what it trains, on the training examples."""
    return prepared.activations.session(
        params,
        stage.train if train is None else train,
        prepared.corpus.train,
        order=prepared.order,
        keep=worth_keeping(prepared, stage),
    )


def evaluator(prepared: Prepared, train: Selector, examples: Examples) -> Evaluator:
    """Evaluates global models that differ in what `train` chooses, on one set of examples."""
    workers = prepared.capacity.workers
    return Evaluator(prepared.activations.session, train, examples, workers=workers)


@dataclass(frozen=True, eq=False)
class Stages:
    """Plays a prepared job on this machine (`fedloom.server.course.Playing`).

    Attributes:
        prepared: the job.
        personal: what clients keep for themselves; None where they keep nothing.
        interrupt: Ctrl-C, which may come in a round and be lost.
    """

    prepared: Prepared
    personal: ClientVectors | None = None
    interrupt: Interrupt = field(default_factory=Interrupt)

    def judge(self, index: int, params: Params) -> Judge:
        """Evaluates models on the examples that the curve is drawn from."""
        train = self.prepared.job.stages[index].train
        judge = evaluator(self.prepared, train, self.prepared.curve)
        return lambda model: judge(model).metrics

    def play(self, index: int, state: State, *, first: int, last: int) -> Iterator[Played]:
        """Play rounds `first` to `last` of a stage (numbers of the whole run), one at a time.

        Args:
            index: which of the job's stages.
            state: the state before round `first`.
            first: number of the first round to play.
            last: number of the stage's last round.
        """
        prepared = self.prepared
        job, stage = prepared.job, prepared.job.stages[index]
        strategy = cast(Strategy, create("strategies", stage.strategy))
        up, down = (cast(Codec, create("codecs", c)) for c in (job.up(index), job.codec_down))
        following = follows(up, down)
        before = sent_by([s.selectors for s in job.stages[:index]], state.params.layout)
        sent = changed([s.selectors for s in job.stages[: index + 1]], state.params.layout)
        if prepared.split is not None:
            sent = prepared.split.sent(sent)  # the far side has its own tensors
        first_model = None if stage.down == ALL else prepared.model.initial(job.seed)

        stands = strategy, job, index, state
        beside = remembered(*stands, done=first - 1, prunes=prunes(job))
        with ThreadPoolExecutor(prepared.capacity.workers + 1) as pool, beside as kept:
            federation = self._federation(index, up, pool)
            for number in range(first, last + 1):
                began = time.perf_counter()
                if self.personal is not None:
                    self.personal.begin(number)
                cohort = self._cohort(number, stage, state)
                state, held = Held.taken_from(state, prepared.population)
                model = Downlink(
                    state,
                    down,
                    sent,
                    number=number - 1,
                    briefing=briefing_of(strategy, state),
                    following=following,
                )
                # What is not sent down clients have as it was in the first model; where all is that
                # has changed, the rest is the global model's.
                there = first_model or state.params
                params, briefing = received(there, down, model.plain, sent)
                sizes = held.sizes(model, cohort)
                branches = branched(strategy, state, down, before, briefing)
                cut = Cuts(model, there, down, sent).of
                handing = dispatcher(
                    federation, params, sizes, briefing, branches=branches, cut=cut
                )
                handing = attacked(handing, prepared.attackers, params.layout, federation.codec_of)
                dispatch = held.noting(model, handing)
                state, report = asyncio.run(
                    run_round(strategy, state, cohort, dispatch, decode=up.decode, kept=kept)
                )
                state, report = judged(strategy, state, report, self._candidate)
                self.interrupt.check()
                state = held.put_into(state)
                if self.personal is not None:
                    self.personal.commit(number)
                yield Played(stage.name, state, report, time.perf_counter() - began)

    def _federation(self, index: int, codec: Codec, pool: ThreadPoolExecutor) -> Federation:
        """Who trains in a stage, and how."""
        prepared, stage = self.prepared, self.prepared.job.stages[index]
        sessions = StageSession(
            lambda params, train: training_session(prepared, params, stage, train)
        )
        return Federation(
            session_of=sessions.of,
            learner=cast(Learner, create("learners", prepared.job.learner)),
            codec=codec,
            rows_of=prepared.population.rows_of,
            capacity=prepared.capacity,
            pool=pool,
            split=prepared.split,
            device_of=prepared.device_of,
            personal=self.personal if holds(prepared.job, index) else None,
        )

    def _cohort(self, number: int, stage: Stage, state: State) -> Cohort:
        """Who is asked in a round, and for what."""
        prepared = self.prepared
        cohort = prepared.population.cohort(
            number,
            stage.clients_per_round,
            work=stage.local,
            selectors=stage.selectors,
            drawn=drawn_for(state, number),
        )
        cuts = None if prepared.split is None else prepared.split.table
        return replace(cohort, tiers=prepared.job.tiers, cuts=cuts, rounds=stage.rounds)

    def _candidate(self, params: Params) -> Metrics:
        """Evaluates a model that a strategy asks about; below what is new, activations are kept."""
        return evaluator(self.prepared, NONE, self.prepared.curve)(params).metrics
