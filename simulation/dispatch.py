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
from fedloom.core.errors import ConfigError
from fedloom.core.layout import Selector
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
from fedloom.tuning.base import Session
from fedloom.tuning.capacity import Capacity
from fedloom.tuning.cohort import chunks, size_of
from fedloom.tuning.learning import IDLE, NOTHING, Assignment, Learner, LocalResult
from fedloom.tuning.split_training import SplitTraining

__all__ = ["Federation", "dispatcher"]

AHEAD = 4
"""Chunks handed to the pool per worker, those being trained among them: enough that a long chunk
keeps no other worker waiting."""


@dataclass(frozen=True)
class Federation:
    """What dispatching needs, the same for all rounds of a stage.

    Attributes:
        session_of: the model, set up to train what a selector chooses.
        learner: how data becomes updates, where a task does not say otherwise.
        codec: how updates travel, where a task does not say otherwise.
        rows_of: the training examples of a client, by id.
        capacity: how much is trained at once.
        pool: threads that train chunks and encode updates: one more than chunks are trained at
            once lets the two go side by side.
        split: how clients train over a split model; None where they hold all of it.
    """

    session_of: Callable[[Selector], Session]
    learner: Learner
    codec: Codec
    rows_of: Callable[[ClientId], NDArray[np.int64]]
    capacity: Capacity
    pool: ThreadPoolExecutor
    split: SplitTraining | None = None

    def learner_of(self, task: ClientTask) -> Learner:
        """Who trains a task."""
        if task.learner is None:
            return self.learner
        return cast(Learner, create("learners", task.learner))

    def codec_of(self, task: ClientTask) -> Codec:
        """What encodes a task's update."""
        return self.codec if task.codec is None else cast(Codec, create("codecs", task.codec))


def dispatcher(
    federation: Federation,
    params: Params,
    bytes_down: Mapping[ClientId, int],
    briefing: Briefing = NOTHING,
) -> Callable[[Mapping[ClientId, ClientTask]], AsyncIterator[ClientUpdate | Refusal]]:
    """The round's dispatch: every client starts from `params` and `briefing`, as they came down.

    `bytes_down` says what each client received for them.

    Updates come in the order of the chunks, whatever thread is done first, so that two runs are
    the same to the bit.
    """

    # Updates are encoded in the pool too, beside the training of other chunks: a device is not kept
    # waiting for a processor's work, and no more chunks than it has room for are on it.
    room = Semaphore(federation.capacity.workers)

    def work(chunk: list[ClientTask]) -> list[ClientUpdate | Refusal]:
        with room:
            trained = _train(federation, params, briefing, chunk)
        return [
            _update(federation, params, task, result, bytes_down[task.client])
            if result.num_examples
            else Refusal(task.client, IDLE)
            for task, result in trained
        ]

    async def dispatch(
        tasks: Mapping[ClientId, ClientTask],
    ) -> AsyncIterator[ClientUpdate | Refusal]:
        waiting = deque(
            chunk
            for group in _alike(federation, list(tasks.values()))
            for chunk in _chunked(federation, group)
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
    """Tasks that can share a chunk: the same numbers, tensors, way of training, and cut."""
    found: dict[object, list[ClientTask]] = {}
    for task in tasks:
        way = repr((task.learner, task.codec))  # options need not be hashable
        cut = split.at(task.bottom).cut if split is not None else None
        key = (task.work, task.selectors.train, way, cut)
        found.setdefault(key, []).append(task)
    return list(found.values())


def _alike(federation: Federation, tasks: list[ClientTask]) -> list[list[ClientTask]]:
    found = _groups(federation.split, tasks)
    if len(found) > 1 and federation.split is not None and federation.split.shared:
        mode = federation.split.config.mode
        text = "its clients were asked for different work; v1 allows it"
        raise ConfigError(f"split.mode = {mode!r}: {text}")
    return found


def _chunked(federation: Federation, tasks: list[ClientTask]) -> list[list[ClientTask]]:
    if federation.split is not None and federation.split.shared:
        return [tasks]
    sizes, session = [], federation.session_of(tasks[0].selectors.train)
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
    cohort = [
        Assignment(
            task.client, federation.rows_of(task.client), task.round, task.seed, task.batches
        )
        for task in tasks
    ]
    learner, train = federation.learner_of(tasks[0]), tasks[0].selectors.train
    if federation.split is not None:
        split, work = federation.split.at(tasks[0].bottom), tasks[0].work
        results = split.train(learner, params, train, work, cohort, briefing)
    else:
        session = federation.session_of(train)
        results = learner.train(session, params, tasks[0].work, cohort, briefing)
    return list(zip(tasks, results, strict=True))


def _update(
    federation: Federation,
    params: Params,
    task: ClientTask,
    result: LocalResult,
    bytes_down: int,
) -> ClientUpdate:
    """What the client would send, and what it cost."""
    codec = federation.codec_of(task)
    received = bytes_down + result.bytes_down
    update = client_update(
        task,
        result.layout,
        result.delta,
        codec,
        num_examples=result.num_examples,
        metrics=result.metrics,
        cost=Cost(bytes_down=received, flops=result.flops, seconds=result.seconds),
        model=params.layout,
        steps=result.steps,
    )
    if federation.split is None:
        return update
    sent = replace(update.cost, bytes_up=update.cost.bytes_up + result.bytes_up)
    update = replace(update, cost=sent)
    if update.payload is None:
        return update
    home = federation.split.at(task.bottom).home(task.selectors.sent(params.layout))
    return with_far(update, codec.decode(update.payload, home), result.far)
