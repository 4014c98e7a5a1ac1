import asyncio
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import cast

import numpy as np
import pytest
from numpy.typing import NDArray

from fedloom.codecs.dense import Float32
from fedloom.core.errors import StrategyError
from fedloom.core.layout import Layout, TensorSpec
from fedloom.core.types import Briefing, ClientTask, ClientUpdate, LocalWork, Params, Selectors
from fedloom.simulation.branches import Branch
from fedloom.simulation.dispatch import AHEAD, _fitting, dispatcher
from fedloom.simulation.federation import Federation
from fedloom.tuning.base import Session
from fedloom.tuning.capacity import Capacity
from fedloom.tuning.learning import NOTHING, Assignment, LocalResult
from fedloom.tuning.sparing import Sparing

LAYOUT = Layout((TensorSpec("a", (2,)), TensorSpec("b", (3,), tags=frozenset({"head"}))))
PARAMS = Params(LAYOUT, np.zeros(5, np.float32))


class FakeSession:
    def tokens(self, rows: NDArray[np.int64]) -> int:
        return len(rows)


class FakeLearner:
    """Deltas are the client's number; counts what runs and what has begun."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.running = self.most = self.begun = 0

    def train(
        self,
        session: Session,
        params: Params,
        work: LocalWork,
        cohort: Sequence[Assignment],
        briefing: Briefing = NOTHING,
    ) -> list[LocalResult]:
        with self._lock:
            self.begun += 1
            self.running += 1
            self.most = max(self.most, self.running)
        time.sleep(0.002)  # long enough for whoever may begin beside it
        results = [
            LocalResult(
                client=own.client,
                layout=LAYOUT,
                delta=np.full(5, float(own.client), np.float32),
                num_examples=1,
                metrics={},
                flops=0.0,
                seconds=0.0,
            )
            for own in cohort
        ]
        with self._lock:
            self.running -= 1
        return results


TASK = ClientTask("a", 1, 0)
SIZES = {str(i): 20 for i in range(100)}
"""Bytes that each client was sent."""


def tasks(clients: int, selectors: Selectors = Selectors()) -> dict[str, ClientTask]:  # noqa: B008
    return {str(i): ClientTask(str(i), 1, 0, selectors=selectors) for i in range(clients)}


def federation(learner: FakeLearner, pool: ThreadPoolExecutor, workers: int) -> Federation:
    return Federation(
        session_of=lambda params, train: cast(Session, FakeSession()),
        learner=learner,
        codec=Float32(),
        rows_of=lambda name: np.arange(1 + int(name) % 3),
        capacity=Capacity(workers, 2, 1000, 1),
        pool=pool,
    )


async def collect(learner: FakeLearner, given: dict[str, ClientTask]) -> list[ClientUpdate]:
    with ThreadPoolExecutor(3) as pool:
        dispatch = dispatcher(federation(learner, pool, 2), PARAMS, SIZES)
        found = [update async for update in dispatch(given)]
    return [update for update in found if isinstance(update, ClientUpdate)]


def test_every_client_sends_its_own_delta() -> None:
    updates = asyncio.run(collect(FakeLearner(), tasks(50)))
    assert {update.client for update in updates} == set(tasks(50))
    for update in updates:
        assert update.payload is not None
        delta = Float32().decode(update.payload, LAYOUT)
        assert (delta.vector == float(update.client)).all()
        assert (update.cost.bytes_up, update.cost.bytes_down) == (update.payload.nbytes, 20)


def test_order_is_that_of_the_chunks() -> None:
    first, second = (asyncio.run(collect(FakeLearner(), tasks(50))) for _ in range(2))
    assert [u.client for u in first] == [u.client for u in second]


def test_only_selected_tensors_are_sent() -> None:
    updates = asyncio.run(collect(FakeLearner(), tasks(2, Selectors(up=("head",)))))
    sent = LAYOUT.select(("head",))
    for update in updates:
        assert update.payload is not None
        assert Float32().decode(update.payload, sent).vector.tolist() == [float(update.client)] * 3


def test_no_more_chunks_train_at_once_than_there_is_room_for() -> None:
    learner = FakeLearner()
    asyncio.run(collect(learner, tasks(60)))
    assert (learner.begun, learner.most <= 2) == (30, True)


def test_a_batch_that_memory_does_not_hold_runs_in_parts() -> None:
    """Clients of one, two and three examples of a token each, where memory holds two tokens."""
    given = [np.arange(n) for n in (1, 2, 3)]
    parts = []
    with ThreadPoolExecutor(1) as pool:
        own = federation(FakeLearner(), pool, 1)
        own = replace(own, capacity=replace(own.capacity, most=2))
        for rows in given:
            cohort = [Assignment("a", rows, 1, 0)]
            found = _fitting(own, own.session_for(TASK, PARAMS), TASK, cohort)
            parts.append(len(found.pieces([rows])) if isinstance(found, Sparing) else 1)
    assert parts == [1, 1, 2]


def test_few_chunks_run_ahead_of_what_is_read() -> None:
    learner = FakeLearner()

    async def first() -> None:
        with ThreadPoolExecutor(3) as pool:
            updates = dispatcher(federation(learner, pool, 2), PARAMS, SIZES)(tasks(100))
            await anext(updates)
            await updates.aclose()  # type: ignore[attr-defined]

    asyncio.run(first())
    assert learner.begun <= AHEAD * 2


def test_clients_of_a_branch_start_from_it() -> None:
    starts: dict[str, float] = {}

    class Notes(FakeLearner):
        def train(
            self,
            session: Session,
            params: Params,
            work: LocalWork,
            cohort: Sequence[Assignment],
            briefing: Briefing = NOTHING,
        ) -> list[LocalResult]:
            starts.update({own.client: float(params.vector[0]) for own in cohort})
            return super().train(session, params, work, cohort)

    given = {name: replace(t, branch=("", "x")[int(name) % 2]) for name, t in tasks(10).items()}
    branches = {"x": Branch(Params(LAYOUT, np.full(5, 3, np.float32)), 44)}

    async def played() -> dict[str, int]:
        with ThreadPoolExecutor(3) as pool:
            handing = dispatcher(federation(Notes(), pool, 2), PARAMS, SIZES, branches=branches)
            found = [update async for update in handing(given)]
        return {u.client: u.cost.bytes_down for u in found if isinstance(u, ClientUpdate)}

    down = asyncio.run(played())
    assert starts == {str(i): 3.0 * (i % 2) for i in range(10)}
    assert down == {str(i): (20, 44)[i % 2] for i in range(10)}


def test_a_branch_that_is_not_there() -> None:
    given = {name: replace(task, branch="y") for name, task in tasks(2).items()}
    with pytest.raises(
        StrategyError, match=r"configure, round \d+: branch 'y' of '\w+': it has given \[\]"
    ):
        asyncio.run(collect(FakeLearner(), given))
