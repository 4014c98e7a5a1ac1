"""What the federation is compared with: all data in one place, and each client on its own."""

from collections.abc import Callable
from dataclasses import replace
from typing import cast

import numpy as np

from fedloom.core.layout import ALL
from fedloom.core.registry import create
from fedloom.core.seeds import stream
from fedloom.core.types import LocalWork, Metrics, Params
from fedloom.simulation.setup import Prepared
from fedloom.simulation.stage import evaluator, training_session
from fedloom.tuning.cohort import chunks, size_of
from fedloom.tuning.learning import Assignment, Learner

__all__ = ["central", "local"]

LOCAL_CLIENTS = 8
LOCAL_PASSES = 5
MOST_PASSES = 10


def central(prepared: Prepared, start: Params) -> Metrics:
    """One client that holds all training examples, given the same stages.

    Every stage sees as many examples as the federation's stage does, but at most 10 passes over
    the data, with the stage's own optimizer and batch size.
    """
    everything = np.arange(len(prepared.corpus.train), dtype=np.int64)

    def train(params: Params, work: LocalWork, index: int) -> Params:
        stage = prepared.job.stages[index]
        session = training_session(prepared, params, stage)
        learner = cast(Learner, create("learners", prepared.job.learner))
        one = [Assignment("central", everything, index + 1, prepared.job.seed)]
        (result,) = learner.train(session, params, work, one)
        return _moved(params, result.layout.names, result.delta)

    params = _stages(prepared, start, len(everything), train)
    return evaluator(prepared, ALL, prepared.corpus.test)(params).metrics


def local(prepared: Prepared, start: Params) -> Metrics:
    """Each of some clients alone on its own examples; the mean of their accuracy on the test split.

    At most 8 clients are tried, chosen by the run's seed; each passes over its examples 5 times in
    every stage.
    """
    population = prepared.population
    count = min(LOCAL_CLIENTS, len(population))
    chosen = stream(prepared.job.seed, "local reference").choose(len(population), count)
    clients = [population.client(int(i)).id for i in chosen]
    models = {client: start for client in clients}
    for index in range(len(prepared.job.stages)):
        models = _each_alone(prepared, models, index)
    judge = evaluator(prepared, ALL, prepared.corpus.test)
    found = [judge(params).metrics for params in models.values()]
    return {name: float(np.mean([m[name] for m in found])) for name in found[0]}


def _each_alone(prepared: Prepared, models: dict[str, Params], index: int) -> dict[str, Params]:
    """One stage of every client on its own.

    Clients that start from one model are trained together; after the first stage each has its own.
    """
    stage = prepared.job.stages[index]
    learner = cast(Learner, create("learners", prepared.job.learner))
    out: dict[str, Params] = {}
    shared = len({id(params) for params in models.values()}) == 1
    groups = [list(models)] if shared else [[client] for client in models]
    for group in groups:
        params = models[group[0]]
        session = training_session(prepared, params, stage)
        rows = [prepared.population.rows_of(client) for client in group]
        work = replace(stage.local, epochs=LOCAL_PASSES, steps=0, max_examples=0, prox_mu=0.0)
        sizes = [size_of(len(r), session.tokens(r), work) for r in rows]
        for part in chunks(sizes, most=prepared.capacity.clients, budget=prepared.capacity.tokens):
            cohort = [Assignment(group[i], rows[i], index + 1, prepared.job.seed) for i in part]
            for result in learner.train(session, params, work, cohort):
                out[result.client] = _moved(params, result.layout.names, result.delta)
    return out


def _stages(
    prepared: Prepared,
    params: Params,
    total: int,
    train: Callable[[Params, LocalWork, int], Params],
) -> Params:
    mean_rows = total / len(prepared.population)
    for index, stage in enumerate(prepared.job.stages):
        used = min(mean_rows, stage.local.max_examples or mean_rows)
        seen = stage.rounds * stage.clients_per_round * used * stage.local.epochs
        params = train(params, _passes(stage.local, seen, total), index)
    return params


def _passes(work: LocalWork, seen: float, total: int) -> LocalWork:
    """The same work in so many steps that `seen` examples are seen, over `total` examples."""
    steps = max(round(min(seen, MOST_PASSES * total) / work.batch_size), 1)
    return replace(work, steps=steps, max_examples=0, prox_mu=0.0)


def _moved(params: Params, names: tuple[str, ...], delta: np.ndarray) -> Params:
    part = params.layout.select(names)
    return params.having(Params(part, params.only(part).vector + delta))
