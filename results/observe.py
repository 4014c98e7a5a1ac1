"""What a run tells whoever watches it: progress bars, files, event writers.

All values; an observer never changes what is computed.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from fedloom.core.types import ClientId, Metrics, Refusal

__all__ = ["Observer", "Observers", "RoundLine", "RunInfo", "Summary", "spread"]


@dataclass(frozen=True)
class RunInfo:
    """What is known before the first round.

    Attributes:
        name: the job's name.
        directory: where results go.
        rounds: rounds of all stages together.
        stages: names of the stages, in order.
        clients: clients in the federation.
        examples: training examples of all clients together.
        classes: classes to tell apart, or 0 for a language model.
        trainable: numbers that train and travel (P).
        backbone: what is fine-tuned.
        resumed_from: the round that a checkpoint gave, or 0 for a fresh start.
    """

    name: str
    directory: Path
    rounds: int
    stages: tuple[str, ...] = ()
    clients: int = 0
    examples: int = 0
    classes: int = 0
    trainable: int = 0
    backbone: str = ""
    resumed_from: int = 0


@dataclass(frozen=True)
class RoundLine:
    """One round, as it is shown, kept and plotted.

    Round 0 is the model before any training: only `evaluation` means something there.

    Attributes:
        round: its number, from 1.
        stage: name of the stage that it belongs to.
        accepted: updates folded into the model.
        refused: updates that were not.
        loss: the clients' mean training loss, weighted by examples; NaN where none came.
        metrics: what else training measured (strategy and clients).
        evaluation: the global model after the round on the split of the curve: ``accuracy``,
            ``loss``, ``macro_f1``, ``perplexity``; empty in a round without evaluation.
        bytes_up: bytes that clients sent in this round.
        bytes_down: bytes that clients received in this round.
        total_bytes_up: bytes that clients sent since round 1.
        total_bytes_down: bytes that clients received since round 1.
        seconds: wall seconds of this round, evaluation and checkpoint included.
        elapsed: wall seconds since round 1 began, over all resumes.
        round_seconds: how long the round takes the devices: as its slowest client computes (on
            its device model, or as it measured) and communicates (on its device model).
        simulated_seconds: `round_seconds` of all rounds so far.
        device_seconds: seconds that the round's clients compute, all together.
        network_seconds: seconds that the round's clients communicate, all together.
        joules: that the round's clients take on their device models, waiting included.
        total_joules: `joules` since round 1.
        flops: floating-point operations of the round's clients, from the shapes.
        tokens: tokens that the round's clients trained on.
        peak_memory: bytes that the round's largest client held.
        clients_per_second: clients trained per wall second of training.
        refusals: who was refused and why.
        rounds: rounds of the whole run, as far as is known after this one: a stage may have ended
            early; 0 where nobody said.
    """

    round: int
    stage: str = ""
    accepted: int = 0
    refused: int = 0
    loss: float = float("nan")
    metrics: Metrics = field(default_factory=dict)
    evaluation: Metrics = field(default_factory=dict)
    bytes_up: int = 0
    bytes_down: int = 0
    total_bytes_up: int = 0
    total_bytes_down: int = 0
    seconds: float = 0.0
    elapsed: float = 0.0
    round_seconds: float = 0.0
    simulated_seconds: float = 0.0
    device_seconds: float = 0.0
    network_seconds: float = 0.0
    joules: float = 0.0
    total_joules: float = 0.0
    flops: float = 0.0
    tokens: int = 0
    peak_memory: int = 0
    clients_per_second: float = 0.0
    refusals: tuple[Refusal, ...] = ()
    rounds: int = 0


@dataclass(frozen=True)
class Summary:
    """How a run ended.

    Attributes:
        before: evaluation of the first model on the test split.
        after: evaluation of the last model on the test split.
        references: evaluation on the test split of what else was trained, by ``central`` (all data
            in one place) and ``local`` (each client alone).
        per_client: spread over clients of the last model's evaluation, as `spread` gives it.
        rounds: rounds that are done.
        elapsed: wall seconds since round 1 began, over all resumes.
        spent: what all rounds cost, by name (`fedloom.results.spending.spending`).
        interrupted: whether rounds are left to do.
        directory: where results are.
        adapter: the folder with the trained adapter, in PEFT's format where PEFT knows it.
    """

    before: Metrics
    after: Metrics
    rounds: int
    elapsed: float
    directory: Path
    adapter: Path | None = None
    references: Mapping[str, Metrics] = field(default_factory=dict)
    per_client: Mapping[str, Metrics] = field(default_factory=dict)
    spent: Metrics = field(default_factory=dict)
    interrupted: bool = False


class Observer(Protocol):
    """Someone who watches a run."""

    def started(self, info: RunInfo) -> None:
        """The first round is about to begin, or the next one after a resume."""
        ...

    def round_done(self, line: RoundLine) -> None:
        """A round is over: applied, evaluated where it is due, and saved."""
        ...

    def note(self, text: str) -> None:
        """Something worth one line: a choice made, a fallback taken, a warning."""
        ...

    def finished(self, summary: Summary) -> None:
        """No more rounds follow, whether all are done or the run was interrupted."""
        ...


class Observers:
    """Several observers as one; each is told in order."""

    def __init__(self, observers: Iterable[Observer]) -> None:
        self._observers = tuple(observers)

    def started(self, info: RunInfo) -> None:
        """Tell all of them."""
        for observer in self._observers:
            observer.started(info)

    def round_done(self, line: RoundLine) -> None:
        """Tell all of them."""
        for observer in self._observers:
            observer.round_done(line)

    def note(self, text: str) -> None:
        """Tell all of them."""
        for observer in self._observers:
            observer.note(text)

    def finished(self, summary: Summary) -> None:
        """Tell all of them."""
        for observer in self._observers:
            observer.finished(summary)


_QUANTILES = {"min": 0.0, "p10": 0.1, "p25": 0.25, "median": 0.5, "p75": 0.75, "p90": 0.9, "max": 1}


def spread(clients: Mapping[ClientId, Metrics]) -> dict[str, dict[str, float]]:
    """Quantiles over clients of every metric: each client counts once, whatever its size.

    >>> table = spread({"a": {"accuracy": 0.5}, "b": {"accuracy": 1.0}})
    >>> table["accuracy"]["median"], table["accuracy"]["clients"]
    (0.75, 2.0)
    """
    columns: dict[str, list[float]] = {}
    for metrics in clients.values():
        for name, value in metrics.items():
            columns.setdefault(name, []).append(value)
    return {name: _quantiles(values) for name, values in columns.items()}


def _quantiles(values: list[float]) -> dict[str, float]:
    points = np.quantile(values, list(_QUANTILES.values()))
    named = {name: float(point) for name, point in zip(_QUANTILES, points, strict=True)}
    return {**named, "mean": float(np.mean(values)), "clients": float(len(values))}
