"""From a job to everything that its first round needs: model, data, clients, room to work in."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray

from fedloom.backbones.allocator import keep_large_blocks
from fedloom.core.devices import Device
from fedloom.core.errors import ConfigError
from fedloom.core.exposure import exposed
from fedloom.core.job import Job
from fedloom.core.job_devices import device_by_tier
from fedloom.core.registry import create
from fedloom.core.types import ClientId
from fedloom.results.observe import Observer
from fedloom.simulation.attackers import Attackers, attackers_of, poisoned
from fedloom.simulation.attacks import none
from fedloom.simulation.few_labels import few_labels
from fedloom.simulation.holdings import Partition, StoredPartition
from fedloom.simulation.holdout import HeldBack
from fedloom.simulation.partition import Rule, TrainingRows
from fedloom.simulation.population import Population
from fedloom.tuning.activations import Activations
from fedloom.tuning.aggregating import inexact
from fedloom.tuning.base import CohortModel
from fedloom.tuning.build import model_of
from fedloom.tuning.capacity import Capacity, choose_device, measure_capacity
from fedloom.tuning.cut_needs import told
from fedloom.tuning.data import Corpus, corpus_from_rows, load_examples
from fedloom.tuning.examples import Examples
from fedloom.tuning.prepare import check_names, check_selectors, dtype_of, folder_of
from fedloom.tuning.reading import reading_of
from fedloom.tuning.split_checks import check_split
from fedloom.tuning.split_training import SplitTraining, split_of

__all__ = ["Choices", "Prepared", "prepare"]


@dataclass(frozen=True)
class Choices:
    """What a run chose by looking at the machine, and must not choose again when it is resumed.

    They decide float association and rounding, and so the bits of the result.

    Attributes:
        dtype: of the frozen weights and activations.
        clients: clients in a chunk at most.
        tokens: tokens in a chunk's step at most.
    """

    dtype: str
    clients: int
    tokens: int


@dataclass(frozen=True, eq=False)
class Prepared:
    """A job, ready to run.

    Attributes:
        job: the job.
        folder: the model's folder.
        device: where it runs.
        model: the backbone with its adapter and head.
        corpus: the data.
        population: the clients.
        capacity: how much is trained at once.
        activations: frozen activations that are kept.
        choices: what was chosen by looking at the machine.
        split: how clients train over a split model; None where they hold all of it.
        device_of: whose time and energy a client takes; None where that is not counted.
        attackers: clients that do not play by the rules.
    """

    job: Job
    folder: Path
    device: torch.device
    model: CohortModel
    corpus: Corpus
    population: Population
    capacity: Capacity
    activations: Activations
    choices: Choices
    split: SplitTraining | None = None
    device_of: Callable[[ClientId], Device | None] = lambda client: None
    attackers: Attackers = Attackers(none(), frozenset())

    @property
    def curve(self) -> Examples:
        """The examples that the curve is drawn from."""
        return self.corpus.curve(self.job.evaluate.split)

    @cached_property
    def order(self) -> NDArray[np.int64]:
        """Training rows client by client: in which order activations are likely to be needed."""
        partition = self.population.partition
        if isinstance(partition, StoredPartition):
            stored = partition.rows
            rest = np.setdiff1d(np.arange(len(self.corpus.train)), stored)
            return np.concatenate((stored, rest))
        return np.arange(len(self.corpus.train))


def prepare(
    job: Job,
    observer: Observer,
    cache: Path,
    *,
    data: object = None,
    earlier: Choices | None = None,
) -> Prepared:
    """Load everything a job names.

    Args:
        job: the job.
        observer: told of choices made.
        cache: folder for activations that memory does not hold.
        data: rows in memory, instead of ``job.data.path``.
        earlier: what the run chose when it began, where it is resumed.

    Raises:
        FedloomError: something that the job names is not there or does not fit.
    """
    _check_named(job)
    keep_large_blocks()
    device = choose_device(job.run.device)
    folder = folder_of(job.backbone, device, observer.note)
    corpus = _corpus(job, folder, data)
    if corpus.dropped:
        observer.note(f"{corpus.dropped} rows without a label or text were left out")
    corpus, population, attackers = _dealt(job, corpus, observer)
    by_tier = device_by_tier(job)
    dtype = (
        getattr(torch, earlier.dtype) if earlier else dtype_of(job.backbone, device, observer.note)
    )
    model = model_of(job, folder, corpus.classes, dtype=dtype, device=device)
    if model.note:
        observer.note(model.note)
    check_selectors(job, model.layout)
    split = split_of(job, model, corpus.train)
    for line in (*(told(job, split.table) if split is not None else ()), *exposed(job.split)):
        observer.note(line)
    capacity = _capacity(job, model, device, earlier)
    for line in inexact(job, model.layout):
        observer.note(line)
    memory, disk = (int(gb * 2**30) for gb in (job.run.cache_gb, job.run.cache_disk_gb))
    return Prepared(
        job,
        folder,
        device,
        model,
        corpus,
        population,
        capacity,
        Activations(model, memory, disk, cache),
        Choices(str(dtype).removeprefix("torch."), capacity.clients, capacity.tokens),
        split,
        lambda client: by_tier(population.tier(client)),
        attackers,
    )


def _check_named(job: Job) -> None:
    """Raise for what does not fit, as far as that shows before anything is loaded."""
    create("partitions", job.partition)
    create("attacks", job.attack)
    check_split(job)
    check_names(job)


def _capacity(
    job: Job, model: CohortModel, device: torch.device, earlier: Choices | None
) -> Capacity:
    """How much is trained at once: as when the run began, and no more than the job says."""
    capacity = measure_capacity(model, device, workers=job.run.workers, memory_gb=job.run.memory_gb)
    if earlier:
        capacity = replace(capacity, clients=earlier.clients, tokens=earlier.tokens)
    if job.run.clients_at_once:
        capacity = replace(capacity, clients=min(capacity.clients, job.run.clients_at_once))
    return capacity


def _corpus(job: Job, folder: Path, data: object) -> Corpus:
    reading = reading_of(job.backbone, folder)
    if data is not None:
        corpus = corpus_from_rows(data, job.data, reading, seed=job.seed)
    else:
        corpus = load_examples(job.data, reading, seed=job.seed)
    corpus.check_test(job.data.path)
    return corpus


def _dealt(job: Job, corpus: Corpus, observer: Observer) -> tuple[Corpus, Population, Attackers]:
    """The corpus with the labels that it keeps or is given, the clients, and who attacks."""
    rule = cast(Rule, create("partitions", job.partition))
    partition: Partition = rule(TrainingRows.of(corpus), job.seed)
    if partition.empty:
        observer.note(f"{partition.empty} clients without examples were left out")
    if job.data.labels and job.evaluate.hold_out:
        text = "the few labels are all for training: set it to 0"
        raise ConfigError(f"evaluate.hold_out = {job.evaluate.hold_out}: {text}")
    corpus, partition = few_labels(corpus, partition, job.data, job.seed)
    attackers = attackers_of(job, partition)
    if attackers.names:
        observer.note(f"{len(attackers.names)} of {len(partition)} clients attack")
    corpus = poisoned(corpus, partition, attackers)
    if job.evaluate.hold_out:
        partition = HeldBack(partition, job.evaluate.hold_out, job.seed)
    return corpus, Population(partition, job.seed, job.tiers), attackers
