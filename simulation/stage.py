"""One stage of a run: rounds with one strategy and one way of training."""

import asyncio
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import cast

from fedloom.codecs.base import Codec
from fedloom.core.job import Stage
from fedloom.core.layout import Layout, Selector
from fedloom.core.registry import create
from fedloom.core.types import Delta, Params, RoundReport, Selectors, State
from fedloom.server.round import run_round
from fedloom.simulation.dispatch import Federation, dispatcher
from fedloom.simulation.setup import Prepared
from fedloom.strategies.base import Strategy
from fedloom.tuning.base import Learner, Session
from fedloom.tuning.evaluate import Evaluation, evaluate
from fedloom.tuning.examples import Examples

__all__ = ["Evaluator", "Played", "play", "training_session"]


@dataclass(frozen=True)
class Played:
    """One round of a stage, done.

    Attributes:
        stage: name of the stage.
        state: the state after it.
        report: what happened in it.
        seconds: wall seconds of training and aggregation.
    """

    stage: str
    state: State
    report: RoundReport
    seconds: float


def worth_keeping(prepared: Prepared, stage: Stage) -> bool:
    """Whether an example is expected to be seen more than once in the stage."""
    cohort = min(stage.clients_per_round, len(prepared.population))
    visits = stage.rounds * cohort / len(prepared.population)
    passes = 1 if stage.local.steps else stage.local.epochs
    return passes * max(visits, 1.0) > 1.0


def training_session(prepared: Prepared, params: Params, stage: Stage) -> Session:
    """The model set up to train a stage from `params` on the training examples."""
    return prepared.activations.session(
        params,
        stage.train,
        prepared.corpus.train,
        order=prepared.order,
        keep=worth_keeping(prepared, stage),
    )


class Evaluator:
    """Evaluates global models that `train` leads to from `params`, on one set of examples."""

    def __init__(
        self, prepared: Prepared, params: Params, train: Selector, examples: Examples
    ) -> None:
        self._session = prepared.activations.session(params, train, examples)
        self._examples = examples
        self._workers = prepared.capacity.workers

    def __call__(self, params: Params) -> Evaluation:
        """Loss, accuracy and so on of one global model."""
        with ThreadPoolExecutor(self._workers) as pool:
            return evaluate(self._session, params, self._examples, pool=pool)


def play(
    prepared: Prepared, index: int, state: State, *, first: int, last: int
) -> Iterator[Played]:
    """Play rounds `first` to `last` of a stage (numbers of the whole run), one at a time.

    Args:
        prepared: the job.
        index: which of the job's stages.
        state: the state before round `first`.
        first: number of the first round to play.
        last: number of the stage's last round.
    """
    job, stage = prepared.job, prepared.job.stages[index]
    strategy = cast(Strategy, create("strategies", stage.strategy))
    up, down = (cast(Codec, create("codecs", c)) for c in (job.codec_up, job.codec_down))
    session = training_session(prepared, state.params, stage)
    selectors = Selectors(train=stage.train)
    sent = _changed(job.stages[: index + 1], state.params)
    with ThreadPoolExecutor(prepared.capacity.workers + 1) as pool:
        federation = Federation(
            session=session,
            learner=cast(Learner, create("learners", job.learner)),
            codec=up,
            rows_of=prepared.population.rows_of,
            capacity=prepared.capacity,
            pool=pool,
        )
        for number in range(first, last + 1):
            began = time.perf_counter()
            cohort = prepared.population.cohort(
                number, stage.clients_per_round, work=stage.local, selectors=selectors
            )
            params, nbytes = _sent_down(state, down, sent)
            dispatch = dispatcher(federation, params, nbytes)
            state, report = asyncio.run(
                run_round(strategy, state, cohort, dispatch, decode=up.decode)
            )
            yield Played(stage.name, state, report, time.perf_counter() - began)


def _sent_down(state: State, codec: Codec, part: Layout) -> tuple[Params, int]:
    """The model as clients receive it, and the bytes that each of them receives."""
    params = state.params
    sent = Delta(part, params.layout.gather(params.vector, part))
    payload = codec.encode(sent, seed=state.version)
    arrived = codec.decode(payload, part)
    vector = params.layout.scatter(params.vector, part, arrived.vector)
    return Params(params.layout, vector), payload.nbytes


def _changed(stages: Sequence[Stage], params: Params) -> Layout:
    """The tensors that any of the stages trains: what a client may not have yet."""
    names = {name for stage in stages for name in params.layout.select(stage.train).names}
    return Layout(tuple(spec for spec in params.layout if spec.name in names))
