"""Which layers clients should share: scored on a cohort's data before the first round."""

import math
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedloom.core.errors import require
from fedloom.core.job import Job
from fedloom.core.layout import Layout
from fedloom.core.types import Client
from fedloom.results.observe import Observer
from fedloom.simulation.setup import Prepared, prepare
from fedloom.tuning.layer_scores import layer_scores
from fedloom.tuning.learners.local_batches import local_batches
from fedloom.tuning.learning import Assignment

__all__ = ["ENDS", "LayerChoice", "choose_layers"]

ENDS = ("highest", "lowest")


@dataclass(frozen=True)
class LayerChoice:
    """What was chosen of the layers that have something to train.

    Attributes:
        scores: of each layer, by its number.
        shared: layers that all share.
        kept: those that every client keeps for itself.
    """

    scores: dict[int, float]
    shared: tuple[int, ...]
    kept: tuple[int, ...]

    @property
    def keep(self) -> str:
        """The line for a configuration."""
        names = ", ".join(f'"layer.{layer}"' for layer in self.kept)
        return f"keep = [{names}]"


def choose_layers(job: Job, observer: Observer, *, share: float, end: str) -> LayerChoice:
    """Score the layers on one batch of each client of the first round, and take some of them.

    FedPepTAO (Che et al., EMNLP 2023, section 3.2): a layer's score is the clients' mean
    (`fedloom.tuning.layer_scores`), weighted by their examples.

    Args:
        job: the job; its first stage says how many clients, and how large a batch.
        observer: told of choices made on the way.
        share: of the layers that are shared, above 0, to 1.
        end: which are: those that score ``highest``, as the authors' code has it, or ``lowest``.

    Raises:
        ConfigError: an argument is out of range, or the model's layers cannot be run one by one.
    """
    require(0 < share <= 1, "share", share, "above 0, to 1")
    require(end in ENDS, "end", end, f"one of {', '.join(ENDS)}")
    with tempfile.TemporaryDirectory() as folder:
        prepared = prepare(job, observer, Path(folder))
        found = _scores(prepared)
    layers = _adapted(prepared.model.layout)
    order = sorted(layers, key=lambda n: (-found[n] if end == "highest" else found[n], n))
    shared = sorted(order[: math.ceil(share * len(layers))])
    kept = [layer for layer in layers if layer not in shared]
    scores = {layer: float(found[layer]) for layer in layers}
    return LayerChoice(scores, tuple(shared), tuple(kept))


def _scores(prepared: Prepared) -> NDArray[np.float64]:
    stage, population = prepared.job.stages[0], prepared.population
    clients = population.cohort(1, stage.clients_per_round).clients
    weights = np.array([client.num_examples for client in clients], dtype=np.float64)
    scores = np.stack([_of_client(prepared, client) for client in clients])
    mean: NDArray[np.float64] = weights @ scores / weights.sum()
    return mean


def _of_client(prepared: Prepared, client: Client) -> NDArray[np.float64]:
    """Scores on the first batch that the client would train on."""
    rows = prepared.population.rows_of(client.id)
    one = Assignment(client.id, rows, 1, prepared.job.seed)
    batch = next(local_batches(one, prepared.job.stages[0].local))
    return layer_scores(prepared.model, prepared.corpus.train, batch)


def _adapted(layout: Layout) -> list[int]:
    """Numbers of the layers that have tensors which may train."""
    found = {spec.block for spec in layout if spec.block.startswith("layer.")}
    return sorted(int(block.removeprefix("layer.")) for block in found)
