"""What is done when the last round is over: final evaluation, references, the adapter's files."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fedloom.core.layout import ALL
from fedloom.core.seeds import stream
from fedloom.core.types import Metrics, Params
from fedloom.results.observe import Observer, spread
from fedloom.results.rundir import RunDirectory
from fedloom.simulation import references
from fedloom.simulation.setup import Prepared
from fedloom.simulation.stage import evaluator
from fedloom.tuning.evaluate import evaluate
from fedloom.tuning.export import export_adapter

__all__ = ["Closing", "close"]


@dataclass(frozen=True)
class Closing:
    """What the end of a run adds.

    Attributes:
        test: evaluation of the last model on the test split.
        references: evaluation of what else was trained.
        per_client: spread over clients of the last model's evaluation.
        adapter: folder of the saved adapter.
    """

    test: Metrics
    references: Mapping[str, Metrics]
    per_client: Mapping[str, Metrics]
    adapter: Path


def close(
    prepared: Prepared, directory: RunDirectory, observer: Observer, *, start: Params, end: Params
) -> Closing:
    """Evaluate the last model, train the references that the job asks for, save the adapter."""
    export_adapter(prepared.model, end, directory.adapter, classes=prepared.corpus.classes)
    judge = evaluator(prepared, end, ALL, prepared.corpus.test)
    test = judge(end).metrics
    found: dict[str, Metrics] = {}
    for name in prepared.job.run.references:
        observer.note(f"training the reference {name!r}")
        train = {"central": references.central, "local": references.local}[name]
        found[name] = train(prepared, start)
    clients = _each_client(prepared, end)
    if clients:
        directory.write_clients(clients)
    return Closing(test, found, spread(clients) if clients else {}, directory.adapter)


def _each_client(prepared: Prepared, params: Params) -> dict[str, Metrics]:
    """The global model on clients' own training examples, for as many as the job asks for."""
    asked = min(prepared.job.evaluate.clients, len(prepared.population))
    if not asked:
        return {}
    numbers = stream(prepared.job.seed, "evaluated").choose(len(prepared.population), asked)
    partition = prepared.population.partition
    labels = prepared.corpus.train.labels
    rows, names = [], []
    for number in map(int, numbers):
        own = partition.rows_of(number)
        own = own if labels is None else own[labels[own] >= 0]
        if len(own):
            rows.append(own)
            names.append(partition.name_of(number))
    if not rows:
        return {}
    examples = prepared.corpus.train.take(np.concatenate(rows))
    found = evaluate(prepared.model.session(params, ALL, examples), params, examples)
    ends = np.cumsum([len(r) for r in rows])
    return {
        name: {
            "accuracy": float(found.correct[end - len(own) : end].mean()),
            "loss": float(found.loss[end - len(own) : end].mean()),
        }
        for name, own, end in zip(names, rows, ends, strict=True)
    }
