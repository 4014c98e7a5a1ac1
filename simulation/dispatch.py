"""The simulator's side of a round: tasks in, updates out, trained in chunks on this machine."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from threading import Semaphore
from typing import cast

import numpy as np
from numpy.typing import NDArray

from fedloom.codecs.base import Codec
from fedloom.codecs.exchange import client_update, with_far
from fedloom.core.client_vectors import ClientVectors
from fedloom.core.devices import Device, depth
from fedloom.core.errors import ConfigError
from fedloom.core.layout import Layout, Selector
from fedloom.core.ranks import limited
from fedloom.core.registry import create
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
from fedloom.simulation.personal import own_of
from fedloom.strategies.contract import check_branches
from fedloom.tuning.base import Session
from fedloom.tuning.capacity import Capacity
from fedloom.tuning.cohort import chunks, size_of
from fedloom.tuning.depth import picked
from fedloom.tuning.learning import IDLE, NOTHING, Assignment, Learner, LocalResult
from fedloom.tuning.ranking import check_trains_ranks
from fedloom.tuning.sparing import Sparing
from fedloom.tuning.split_training import SplitTraining

__all__ = ["Federation", "dispatcher"]

NO_BRANCHES: Mapping[str, Branch] = {}
AHEAD = 4
"""Chunks handed to the pool per worker, those being trained among them: enough that a long chunk
keeps no other worker waiting."""


@dataclass(frozen=True)
class Federation:
    """What dispatching needs, the same for all rounds of a stage.

    Attributes:
        session_of: a model, set up to train what a selector chooses.
        learner: how data becomes updates, where a task does not say otherwise.
        codec: how updates travel, where a task does not say otherwise.
        rows_of: the training examples of a client, by id.
        capacity: how much is trained at once.
        pool: threads that train chunks and encode updates: one more than chunks are trained at
            once lets the two go side by side.
        split: how clients train over a split model; None where they hold all of it.
        device_of: whose time and energy a client takes; None where that is not counted.
        personal: what clients keep for themselves; None where they keep nothing.
    """

    session_of: Callable[[Params, Selector], Session]
    learner: Learner
    codec: Codec
    rows_of: Callable[[ClientId], NDArray[np.int64]]
    capacity: Capacity
    pool: ThreadPoolExecutor
    split: SplitTraining | None = None
    device_of: Callable[[ClientId], Device | None] = lambda client: None
    personal: ClientVectors | None = None

    def learner_of(self, task: ClientTask) -> Learner:
        """Who trains a task."""
        if task.learner is None:
            return self.learner
        return cast(Learner, create("learners", task.learner))

    def codec_of(self, task: ClientTask) -> Codec:
        """What encodes a task's update."""
        return self.codec if task.codec is None else cast(Codec, create("codecs", task.codec))

    def session_for(self, task: ClientTask, params: Params) -> Session:
        """The model `params` set up for a task."""
        return picked(self.session_of(params, task.selectors.train), task.blocks)


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

    `bytes_down` says what each client received for them; those of `branches`, theirs, and `cut`
    what those receive who have a part of the adapter's rank, where that is sent to them alone.

    Updates come in the order of the chunks, whatever thread is done first, so that two runs are
    the same to the bit.
    """

    def sent_to(task: ClientTask) -> Branch | None:
        if task.branch:
            return branches[task.branch]
        return None if task.rank is None else cut(task.rank)

    def start_of(task: ClientTask) -> Params:
        own = sent_to(task)
        if own is not None and not task.branch:
            return own.params
        return limited(params if own is None else own.params, task.rank)

    def size_down(task: ClientTask) -> int:
        own = sent_to(task)
        return bytes_down[task.client] if own is None else own.bytes_down

    # Updates are encoded in the pool too, beside the training of other chunks: a device is not kept
    # waiting for a processor's work, and no more chunks than it has room for are on it.
    room = Semaphore(federation.capacity.workers)

    def work(chunk: list[ClientTask]) -> list[ClientUpdate | Refusal]:
        start = start_of(chunk[0])
        with room:
            trained = _train(federation, start, briefing, chunk)
        if federation.personal is not None:
            _keep(federation.personal, trained)
        return [
            _update(federation, start, task, result, size_down(task))
            if result.num_examples
            else Refusal(task.client, IDLE)
            for task, result in trained
        ]

    async def dispatch(
        tasks: Mapping[ClientId, ClientTask],
    ) -> AsyncIterator[ClientUpdate | Refusal]:
        waiting = deque(
            chunk
            for group in _alike(federation, list(tasks.values()), branches)
            for chunk in _chunked(federation, group, start_of(group[0]))
        )
        # Results are dropped as they are passed on, and few chunks run ahead of them: memory does
        # not grow with the cohort.
        running: deque[Future[list[ClientUpdate | Refusal]]] = deque()
        try:
            while waiting or running:
                while waiting and len(running) < AHEAD * federation.capacity.workers:
                    running.append(federation.pool.submit(work, waiting.popleft()))
                # Awaited, so that Ctrl-C need not wait for the rest of the round.
                for update in await asyncio.wrap_future(running.popleft()):
                    yield update
        finally:
            for future in running:
                future.cancel()

    return dispatch


def _groups(split: SplitTraining | None, tasks: list[ClientTask]) -> list[list[ClientTask]]:
    """Tasks that can share a chunk: the same start, numbers, tensors, rank, learner, and cut."""
    found: dict[object, list[ClientTask]] = {}
    for task in tasks:
        way = repr((task.learner, task.codec))  # options need not be hashable
        cut = split.at(task.bottom).cut if split is not None else None
        start = task.branch, task.rank
        key = (start, task.work, task.selectors.train, task.blocks, way, cut)
        found.setdefault(key, []).append(task)
    return list(found.values())


def _alike(
    federation: Federation, tasks: list[ClientTask], branches: Mapping[str, Branch]
) -> list[list[ClientTask]]:
    check_branches(tasks, branches)
    for task in tasks:
        if task.rank is not None:
            name = task.learner.name if task.learner else type(federation.learner).__name__
            check_trains_ranks(federation.learner_of(task), name)
    found = _groups(federation.split, tasks)
    if federation.split is not None and any(task.branch for task in tasks):
        raise ConfigError("branch: clients of a split model start from the same one")
    if federation.split is not None and any(task.blocks for task in tasks):
        raise ConfigError("blocks: clients of a split model run all of its layers")
    if len(found) > 1 and federation.split is not None and federation.split.shared:
        mode = federation.split.config.mode
        text = "its clients were asked for different work; v1 allows it"
        raise ConfigError(f"split.mode = {mode!r}: {text}")
    return found


def _chunked(
    federation: Federation, tasks: list[ClientTask], params: Params
) -> list[list[ClientTask]]:
    if federation.split is not None and federation.split.shared:
        return [tasks]
    sizes, session = [], federation.session_for(tasks[0], params)
    copies = getattr(federation.learner_of(tasks[0]), "copies", 1)
    for task in tasks:
        rows = federation.rows_of(task.client)
        sizes.append(size_of(len(rows), session.tokens(rows), task.work))
    capacity = federation.capacity
    most, budget = max(capacity.clients // copies, 1), capacity.tokens // copies
    parts = chunks(sizes, most=most, budget=budget, split=capacity.chunks)
    return [[tasks[i] for i in part] for part in parts]


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
