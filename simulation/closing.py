"""What is done when the last round is over: final evaluation, references, the adapter's files."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from fedloom.core.client_vectors import ClientVectors
from fedloom.core.layout import ALL
from fedloom.core.seeds import stream
from fedloom.core.types import ClientId, Metrics, Params
from fedloom.results.observe import Observer, spread, weighted
from fedloom.results.rundir import RunDirectory
from fedloom.simulation import references
from fedloom.simulation.holdout import rows_to_judge
from fedloom.simulation.personal import own_of
from fedloom.simulation.setup import Prepared
from fedloom.simulation.stage import evaluator
from fedloom.tuning.evaluate import Evaluation, evaluate
from fedloom.tuning.export import export_adapter
from fedloom.tuning.own import own_model
from fedloom.tuning.plug_in import whole_of

__all__ = ["Closing", "Models", "close"]


@dataclass(frozen=True)
class Models:
    """What a run began with and came to.

    Attributes:
        start: the first global model.
        end: the last one.
        personal: what clients keep for themselves; None where they keep nothing.
    """

    start: Params
    end: Params
    personal: ClientVectors | None = None


@dataclass(frozen=True)
class Closing:
    """What the end of a run adds.

    Attributes:
        test: evaluation of the last model on the test split.
        references: evaluation of what else was trained.
        per_client: spread over clients of the last model's evaluation.
        own_examples: means over the same clients, weighted by the examples that they were on.
        adapter: folder of the saved adapter.
    """

    test: Metrics
    references: Mapping[str, Metrics]
    per_client: Mapping[str, Metrics]
    own_examples: Metrics
    adapter: Path


def close(
    prepared: Prepared, directory: RunDirectory, observer: Observer, models: Models
) -> Closing:
    """Evaluate the last model, train the references that the job asks for, save the adapter.

    Where the model is an emulator, the adapter is one of the whole model, which is evaluated too.
    """
    start, end = models.start, models.end
    judge = evaluator(prepared, ALL, prepared.corpus.test)
    test = judge(end).metrics
    found: dict[str, Metrics] = {}
    if prepared.job.backbone.emulator.wanted:
        found |= _plugged(prepared, end, directory.adapter)
    else:
        export_adapter(prepared.model, end, directory.adapter, classes=prepared.corpus.classes)
    for name in prepared.job.run.references:
        observer.note(f"training the reference {name!r}")
        train = {"central": references.central, "local": references.local}[name]
        found[name] = train(prepared, start)
    clients, sizes = _each_client(prepared, models)
    if clients:
        directory.write_clients(clients)
    table = spread(clients) if clients else {}
    return Closing(test, found, table, weighted(clients, sizes), directory.adapter)


def _plugged(prepared: Prepared, end: Params, adapter: Path) -> dict[str, Metrics]:
    """Figures of the whole model with what was trained around its emulator."""
    classes, dtype = prepared.corpus.classes, getattr(torch, prepared.choices.dtype)
    whole = whole_of(prepared.job, prepared.folder, classes, dtype=dtype, device=prepared.device)
    whole.export(end, adapter)
    return whole.judged(end, prepared.corpus.test, prepared.capacity.workers)


def _each_client(
    prepared: Prepared, models: Models
) -> tuple[dict[ClientId, Metrics], dict[ClientId, int]]:
    """Models on clients' own examples, for as many clients as the job asks for; and how many each.

    ``accuracy`` and ``loss`` are of the global model. Where clients keep tensors of their own,
    ``personal_accuracy`` and ``personal_loss`` are of the global model with them in place; a client
    that was never asked has the global model's.
    """
    population, params = prepared.population, models.end
    asked = min(prepared.job.evaluate.clients, len(population))
    chosen = stream(prepared.job.seed, "evaluated").choose(len(population), asked)
    partition = population.partition
    labels = prepared.corpus.train.labels
    rows = {partition.name_of(int(n)): rows_to_judge(partition, int(n)) for n in chosen}
    if labels is not None:
        rows = {name: own[labels[own] >= 0] for name, own in rows.items()}
    rows = {name: own for name, own in rows.items() if len(own)}
    if not rows:
        return {}, {}
    examples = prepared.corpus.train.take(np.concatenate(list(rows.values())))
    session = prepared.model.session(params, ALL, examples)
    found, first = evaluate(session, params, examples), 0
    clients: dict[ClientId, Metrics] = {}
    for name, own in rows.items():
        here, first = np.arange(first, first + len(own)), first + len(own)
        clients[name] = _means(found, here)
        held = models.personal and own_of(models.personal, name, params)
        if mine := held and own_model(params, held):
            theirs = _means(evaluate(session, mine, examples, rows=here), here)
            personal = {f"personal_{metric}": value for metric, value in theirs.items()}
            clients[name] = {**clients[name], **personal}
    return clients, {name: len(own) for name, own in rows.items()}


def _means(found: Evaluation, rows: NDArray[np.int64]) -> dict[str, float]:
    correct, loss = found.correct[rows].mean(), found.loss[rows].mean()
    return {"accuracy": float(correct), "loss": float(loss)}
