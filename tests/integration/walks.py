"""Clients that move along directions over small random models, and what they should have found."""

from collections.abc import Callable

import numpy as np
import torch
from cohorts import Case, Folders, Ragged, cohort, start
from numpy.typing import NDArray

from fedloom.core.layout import Layout
from fedloom.core.steps import Steps
from fedloom.core.types import LocalWork, Params
from fedloom.tuning.base import CohortModel, Session
from fedloom.tuning.learners.gauge import Gauge
from fedloom.tuning.learners.local_batches import local_batches
from fedloom.tuning.learners.spot import Spot, Trials
from fedloom.tuning.learning import Learner, LocalResult

ONE = LocalWork(steps=1, batch_size=4, lr=0.05)
SEVERAL = LocalWork(epochs=1, batch_size=4, lr=0.05, head_lr=0.02)

Slopes = NDArray[np.float64]


def prepared(
    case: Case, folders: Folders, ragged: Ragged, engine: str
) -> tuple[CohortModel, Params, Session]:
    model = case.build(folders, "lora", engine=engine)
    params = start(model)
    return model, params, model.session(params, ("*",), case.examples(ragged))


def apart(learner: Learner, session: Session, params: Params, work: LocalWork) -> list[LocalResult]:
    """Every client in a chunk of its own."""
    return [r for one in cohort() for r in learner.train(session, params, work, [one])]


def steps_of(result: LocalResult) -> Steps:
    assert result.steps is not None
    return result.steps


def slopes_of(result: LocalResult, *, lr: float, per_step: float) -> Slopes:
    """What scalars stand for: a step moves by ``-lr / per_step * slope`` along each direction."""
    steps = steps_of(result)
    return steps.scalars.astype(np.float64) * (steps.coefficient / (-lr / per_step))


def true_slopes(session: Session, params: Params, work: LocalWork) -> list[Slopes]:
    """Autograd's ``g . z`` for the directions of each client's first step."""
    found = []
    for own in cohort():
        batch = next(iter(local_batches(own, work)))
        store = session.store(params, 1)
        session.losses(store, [batch]).loss.sum().backward()
        found.append(store.grad[0].double().numpy())
    return found


def measured(gauge: Gauge, session: Session, params: Params, z: torch.Tensor) -> Slopes:
    """Slopes at the start along ``z [k, d]``, one direction for each client's first batch."""
    rows = [next(iter(local_batches(own, ONE))) for own in cohort()]
    store = session.store(params, len(rows))
    spot = Spot(session, params, store, torch.arange(store.trained.size))
    owner = np.arange(len(rows))
    with torch.no_grad():
        here = session.losses(store, rows)
    return gauge.slopes(spot, Trials(owner, owner, rows, z, False), here)


def directions_of(result: LocalResult) -> NDArray[np.float32]:
    """The directions of a client, float32 ``[n, d]``."""
    steps = steps_of(result)
    out = np.empty((len(steps.scalars), steps.layout.size), dtype=np.float32)
    for number, row in enumerate(out):
        entry = steps.entries()[number // 8]
        steps.family.fill(row[None], entry.key, [number % 8])
    return out


def part_of(whole: Layout, part: Layout, vector: NDArray[np.float64]) -> NDArray[np.float64]:
    places = [np.arange(whole.span(s.name).start, whole.span(s.name).stop) for s in part]
    found: NDArray[np.float64] = vector[np.concatenate(places)]
    return found


def watched(session: Session) -> tuple[Session, Callable[[], torch.Tensor]]:
    """The same session, and where its first store stands."""
    made: list[torch.Tensor] = []
    original = session.store

    def store(params: Params, clients: int) -> object:
        found = original(params, clients)
        made.append(found.values)
        return found

    session.store = store  # type: ignore[method-assign,assignment]
    return session, lambda: made[0]
