"""How unlike each other the clients are, written down for the report."""

import dataclasses

import numpy as np

from fedloom.results.rundir import RunDirectory
from fedloom.simulation.setup import Prepared

__all__ = ["write_partition"]

LARGEST = 200
MOST_CLIENTS = 20_000


def write_partition(prepared: Prepared, directory: RunDirectory) -> None:
    """Write sizes of (at most 20,000) clients, label counts of the largest, and statistics."""
    partition, corpus = prepared.population.partition, prepared.corpus
    sizes = partition.sizes[:MOST_CLIENTS]
    largest = np.argsort(-sizes, kind="stable")[:LARGEST]
    labels: dict[str, dict[str, int]] = {}
    if corpus.train.labels is not None:
        for number in largest:
            own = corpus.train.labels[partition.rows_of(int(number))]
            counts = np.bincount(own[own >= 0])
            name = partition.name_of(int(number))
            labels[name] = {corpus.classes[i]: int(counts[i]) for i in np.flatnonzero(counts)}
    known = corpus.train.labels
    if known is not None and (known < 0).any():
        known = None  # what lies where is not known of most
    skew = dataclasses.asdict(prepared.population.skew(known))
    directory.write_partition(
        {partition.name_of(i): int(size) for i, size in enumerate(sizes)},
        labels,
        {name: float(value) for name, value in skew.items() if value is not None},
    )
