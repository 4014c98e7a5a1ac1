"""The simulator's side of a round: tasks in, updates out, trained in chunks on this machine."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedloom.codecs.base import Codec
from fedloom.core.errors import CodecError
from fedloom.core.seeds import derive
from fedloom.core.types import ClientId, ClientTask, ClientUpdate, Cost, Delta, Params
from fedloom.tuning.base import Assignment, Learner, LocalResult, Session
from fedloom.tuning.capacity import Capacity
from fedloom.tuning.cohort import chunks, size_of

__all__ = ["Federation", "dispatcher"]


@dataclass(frozen=True)
class Federation:
    """What dispatching needs, the same for all rounds of a stage.

    Attributes:
        session: the model, set up for the stage.
        learner: how data becomes updates.
        codec: how updates travel.
        rows_of: the training examples of a client, by id.
        capacity: how much is trained at once.
        pool: threads that train chunks.
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

    async def dispatch(tasks: Mapping[ClientId, ClientTask]) -> AsyncIterator[ClientUpdate]:
        futures = [
            federation.pool.submit(_train, federation, params, chunk)
            for group in _groups(list(tasks.values()))
            for chunk in _chunked(federation, group)
        ]
        try:
            for future in futures:
                # Awaited, so that Ctrl-C need not wait for the rest of the round.
                for task, result in await asyncio.wrap_future(future):
                    yield _update(task, result, federation.codec, bytes_down)
        finally:
            _cancel(futures)

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
    parts = chunks(sizes, most=capacity.clients, budget=capacity.tokens)
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
    """What the client would send: its delta, encoded, and what it cost."""
    sent = result.layout.select(task.selectors.up) if task.selectors.up != ("*",) else result.layout
    vector = result.layout.gather(result.delta, sent)
    seed = derive(task.seed, "codec", round=task.round, client=task.client)
    try:
        payload = codec.encode(Delta(sent, vector), seed=seed % 2**63)
    except CodecError:
        payload = None  # not finite: the client reports its failure instead of a model
    cost = Cost(
        bytes_up=payload.nbytes if payload else 0,
        bytes_down=bytes_down,
        flops=result.flops,
        seconds=result.seconds,
    )
    return ClientUpdate(
        client=task.client,
        round=task.round,
        num_examples=result.num_examples,
        payload=payload,
        metrics=result.metrics,
        cost=cost,
    )


def _cancel(futures: list[Future[list[tuple[ClientTask, LocalResult]]]]) -> None:
    for future in futures:
        future.cancel()
