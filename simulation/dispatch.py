"""The simulator's side of a round: tasks in, updates out, trained in chunks on this machine."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, replace
from threading import Semaphore

from fedloom.codecs.exchange import client_update, with_far
from fedloom.core.client_vectors import ClientVectors
from fedloom.core.devices import depth
from fedloom.core.layout import Layout
from fedloom.core.ranks import limited
from fedloom.core.types import (
    Briefing,
    ClientId,
    ClientTask,
    ClientUpdate,
    Cost,
    Params,
    Refusal,
)
from fedloom.server.round import Dispatch
from fedloom.simulation.branches import Branch
from fedloom.simulation.federation import Federation
from fedloom.simulation.grouping import chunked, groups
from fedloom.simulation.personal import own_of
from fedloom.tuning.base import Session
from fedloom.tuning.cohort import size_of
from fedloom.tuning.learning import IDLE, NOTHING, Assignment, LocalResult
from fedloom.tuning.sparing import Sparing

__all__ = ["AHEAD", "dispatcher"]

NO_BRANCHES: Mapping[str, Branch] = {}
AHEAD = 4
"""Chunks handed to the pool per worker, those being trained among them: enough that a long chunk
keeps no other worker waiting."""


@dataclass(frozen=True)
class _Start:
    """What came down to the clients of a round.

    Attributes:
        params: the model.
        bytes_down: what each client received for it.
        briefing: what came beside it.
        branches: what clients of a branch start from instead, and what they received for it.
        cut: the same of those who have a part of the adapter's rank; None where all of it comes.
    """

    params: Params
    bytes_down: Mapping[ClientId, int]
    briefing: Briefing
    branches: Mapping[str, Branch]
    cut: Callable[[int], Branch | None]

    def model(self, task: ClientTask) -> Params:
        own = self._own(task)
        if own is not None and not task.branch:
            return own.params  # nothing is beyond its rank
        return limited(self.params if own is None else own.params, task.rank)

    def size(self, task: ClientTask) -> int:
        own = self._own(task)
        return self.bytes_down[task.client] if own is None else own.bytes_down

    def _own(self, task: ClientTask) -> Branch | None:
        if task.branch:
            return self.branches[task.branch]
        return None if task.rank is None else self.cut(task.rank)


def dispatcher(
    federation: Federation,
    params: Params,
    bytes_down: Mapping[ClientId, int],
    briefing: Briefing = NOTHING,
    *,
    branches: Mapping[str, Branch] = NO_BRANCHES,
    cut: Callable[[int], Branch | None] = lambda rank: None,
) -> Dispatch:
    """The round's dispatch: every client starts from `params` and `briefing`, as they came down.

    Updates come in the order of the chunks, whatever thread is done first, so that two runs are
    the same to the bit.

    Args:
        federation: who trains, and how.
        params: the model.
        bytes_down: what each client received for it.
        briefing: what came beside it.
        branches: what clients of a branch start from instead, and what they received for it.
        cut: the same of those who have a part of the adapter's rank; None where all of it comes.
    """
    start = _Start(params, bytes_down, briefing, branches, cut)
    # Updates are encoded in the pool too, beside the training of other chunks: a device is not kept
    # waiting for a processor's work, and no more chunks than it has room for are on it.
    room = Semaphore(federation.capacity.workers)

    async def dispatch(
        tasks: Mapping[ClientId, ClientTask],
    ) -> AsyncIterator[ClientUpdate | Refusal]:
        waiting = deque(
            chunk
            for group in groups(federation, list(tasks.values()), branches)
            for chunk in chunked(federation, group, start.model(group[0]))
        )
        # Results are dropped as they are passed on, and few chunks run ahead of them: memory does
        # not grow with the cohort.
        running: deque[Future[list[ClientUpdate | Refusal]]] = deque()
        try:
            while waiting or running:
                while waiting and len(running) < AHEAD * federation.capacity.workers:
                    chunk = waiting.popleft()
                    running.append(federation.pool.submit(_work, federation, start, room, chunk))
                # Awaited, so that Ctrl-C need not wait for the rest of the round.
                for update in await asyncio.wrap_future(running.popleft()):
                    yield update
        finally:
            for future in running:
                future.cancel()

    return dispatch


def _work(
    federation: Federation, start: _Start, room: Semaphore, chunk: list[ClientTask]
) -> list[ClientUpdate | Refusal]:
    """Train a chunk while there is room for it, and make its updates."""
    params = start.model(chunk[0])
    with room:
        trained = _train(federation, params, start.briefing, chunk)
    if federation.personal is not None:
        _keep(federation.personal, trained)
    return [
        _update(federation, params, task, result, start.size(task))
        if result.num_examples
        else Refusal(task.client, IDLE)
        for task, result in trained
    ]


def _train(
    federation: Federation, params: Params, briefing: Briefing, tasks: list[ClientTask]
) -> list[tuple[ClientTask, LocalResult]]:
    cohort = [_assignment(federation, params, task) for task in tasks]
    learner, train = federation.learner_of(tasks[0]), tasks[0].selectors.train
    if federation.split is not None:
        split, work = federation.split.at(tasks[0].bottom), tasks[0].work
        results = split.train(learner, params, train, work, cohort, briefing)
    else:
        session = _fitting(federation, federation.session_for(tasks[0], params), tasks[0], cohort)
        results = learner.train(session, params, tasks[0].work, cohort, briefing)
    return list(zip(tasks, results, strict=True))


def _fitting(
    federation: Federation, session: Session, task: ClientTask, cohort: list[Assignment]
) -> Session:
    """The session, in parts where memory does not hold the batch of a client that is alone."""
    rows, most = cohort[0].rows, federation.capacity.most
    tokens = size_of(len(rows), session.tokens(rows), task.work).tokens
    tokens *= getattr(federation.learner_of(task), "copies", 1)
    if len(cohort) > 1 or not most or tokens <= most:
        return session
    batch = min(task.work.batch_size, task.work.max_examples or len(rows), len(rows))
    return Sparing(session, max(batch * most // tokens, 1))


def _assignment(federation: Federation, params: Params, task: ClientTask) -> Assignment:
    rows, personal = federation.rows_of(task.client), federation.personal
    own = None if personal is None else limited(own_of(personal, task.client, params), task.rank)
    return Assignment(task.client, rows, task.round, task.seed, task.batches, own, rank=task.rank)


def _keep(personal: ClientVectors, trained: list[tuple[ClientTask, LocalResult]]) -> None:
    """Clients keep what has become of their own tensors; one that diverged, what it had."""
    for task, result in trained:
        if result.kept is not None and result.whole:
            personal.keep(task.client, task.round, result.kept.vector)


def _update(
    federation: Federation,
    params: Params,
    task: ClientTask,
    result: LocalResult,
    bytes_down: int,
) -> ClientUpdate:
    """What the client would send, and what it cost."""
    codec = federation.codec_of(task)
    update = client_update(
        task,
        result.layout,
        result.delta,
        codec,
        num_examples=result.num_examples,
        metrics=result.metrics,
        cost=result.cost(bytes_down + result.bytes_down),
        model=params.layout,
        steps=result.steps,
        rank=result.rank,
    )
    cost = replace(update.cost, bytes_up=update.cost.bytes_up + result.bytes_up)
    update = replace(update, cost=_on_device(federation, task, cost, params.layout))
    if federation.split is None or update.payload is None:
        return update
    home = federation.split.at(task.bottom).home(task.selectors.sent(params.layout))
    return with_far(update, codec.decode(update.payload, home), result.far)


def _on_device(federation: Federation, task: ClientTask, cost: Cost, layout: Layout) -> Cost:
    """The cost with the time and energy that the client's device takes."""
    device = federation.device_of(task.client)
    if device is None:
        return cost
    trained = layout.select(task.selectors.train)
    steps = task.work.step_count(len(federation.rows_of(task.client)))
    return device.spent(cost, steps=steps, blocks=depth(trained, layout))
