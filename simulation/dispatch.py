"""The simulator's side of a round: tasks in, updates out, trained in chunks on this machine."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from threading import Semaphore

import numpy as np
from numpy.typing import NDArray

from fedloom.codecs.base import Codec
from fedloom.codecs.exchange import client_update
from fedloom.core.types import ClientId, ClientTask, ClientUpdate, Cost, Params
from fedloom.tuning.base import Assignment, Learner, LocalResult, Session
from fedloom.tuning.capacity import Capacity
from fedloom.tuning.cohort import chunks, size_of

__all__ = ["Federation", "dispatcher"]

AHEAD = 4
"""Chunks handed to the pool per worker, those being trained among them: enough that a long chunk
keeps no other worker waiting."""


@dataclass(frozen=True)
class Federation:
    """What dispatching needs, the same for all rounds of a stage.

    Attributes:
        session: the model, set up for the stage.
        learner: how data becomes updates.
        codec: how updates travel.
        rows_of: the training examples of a client, by id.
        capacity: how much is trained at once.
        pool: threads that train chunks and encode updates: one more than chunks are trained at
            once lets the two go side by side.
    """

    session: Session
    learner: Learner
    codec: Codec
    rows_of: Callable[[ClientId], NDArray[np.int64]]
    capacity: Capacity
    pool: ThreadPoolExecutor


def dispatcher(
    federation: Federation, params: Params, bytes_down: int
) -> Callable[[Mapping[ClientId, ClientTask]], AsyncIterator[ClientUpdate]]:
    """The round's dispatch: every client starts from `params`, as they came down.

    Updates come in the order of the chunks, whatever thread is done first, so that two runs are
    the same to the bit.
    """

    # Updates are encoded in the pool too, beside the training of other chunks: a device is not kept
    # waiting for a processor's work, and no more chunks than it has room for are on it.
    room = Semaphore(federation.capacity.workers)

    def work(chunk: list[ClientTask]) -> list[ClientUpdate]:
        with room:
            trained = _train(federation, params, chunk)
        return [_update(task, result, federation.codec, bytes_down) for task, result in trained]

    async def dispatch(tasks: Mapping[ClientId, ClientTask]) -> AsyncIterator[ClientUpdate]:
        waiting = deque(
            chunk
            for group in _groups(list(tasks.values()))
            for chunk in _chunked(federation, group)
        )
        # Results are dropped as they are passed on, and few chunks run ahead of them: memory does
        # not grow with the cohort.
        running: deque[Future[list[ClientUpdate]]] = deque()
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


def _groups(tasks: list[ClientTask]) -> list[list[ClientTask]]:
    """Tasks that can share a chunk: the same numbers, the same tensors."""
    found: dict[object, list[ClientTask]] = {}
    for task in tasks:
        found.setdefault((task.work, task.selectors.train), []).append(task)
    return list(found.values())


def _chunked(federation: Federation, tasks: list[ClientTask]) -> list[list[ClientTask]]:
    sizes = []
    for task in tasks:
        rows = federation.rows_of(task.client)
        sizes.append(size_of(len(rows), federation.session.tokens(rows), task.work))
    capacity = federation.capacity
    parts = chunks(sizes, most=capacity.clients, budget=capacity.tokens, split=capacity.chunks)
    return [[tasks[i] for i in part] for part in parts]


def _train(
    federation: Federation, params: Params, tasks: list[ClientTask]
) -> list[tuple[ClientTask, LocalResult]]:
    cohort = [
        Assignment(task.client, federation.rows_of(task.client), task.round, task.seed)
        for task in tasks
    ]
    results = federation.learner.train(federation.session, params, tasks[0].work, cohort)
    return list(zip(tasks, results, strict=True))


def _update(task: ClientTask, result: LocalResult, codec: Codec, bytes_down: int) -> ClientUpdate:
    """What the client would send, and what it cost."""
    return client_update(
        task,
        result.layout,
        result.delta,
        codec,
        num_examples=result.num_examples,
        metrics=result.metrics,
        cost=Cost(bytes_down=bytes_down, flops=result.flops, seconds=result.seconds),
        steps=result.steps,
    )
