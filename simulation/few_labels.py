"""Few labels: which of the training examples keep theirs in a simulation."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from fedloom.core.errors import ConfigError, require
from fedloom.core.job import DataConfig
from fedloom.core.seeds import stream
from fedloom.simulation.holdings import Partition, StoredPartition
from fedloom.tuning.data import Corpus
from fedloom.tuning.examples import Examples

__all__ = ["few_labels"]

Rows = NDArray[np.int64]


def few_labels(
    corpus: Corpus, partition: Partition, config: DataConfig, seed: int
) -> tuple[Corpus, Partition]:
    """A corpus in which ``config.labels`` training examples have a label, and who holds them.

    They lie on ``config.label_clients`` clients, in shares that FeS draws from a Dirichlet
    distribution of concentration gamma (Cai et al., MobiCom 2023, section 5.1). The class of the
    others becomes -1, or they are left out where ``config.unlabelled`` does not keep them: nothing
    after this has their labels.

    Raises:
        ConfigError: there are fewer examples or clients, or clients share examples.
    """
    if not config.labels:
        return corpus, partition
    if not isinstance(partition, StoredPartition):
        text = "clients draw their examples, and share some; partition = 'natural' deals each once"
        raise ConfigError(f"data.labels = {config.labels}: {text}")
    labels = corpus.train.labels
    if labels is None:
        raise ConfigError(f"data.labels = {config.labels}: the examples of this task have no label")
    kept = _chosen(partition, labels, config, seed)
    if config.unlabelled:
        left = np.full_like(labels, -1)
        left[kept] = labels[kept]
        return replace(corpus, train=corpus.train.labelled(left)), partition
    return _only(corpus, partition, kept)


def _chosen(partition: StoredPartition, labels: Rows, config: DataConfig, seed: int) -> Rows:
    """Rows that keep their label, ascending."""
    draw = stream(seed, "data/labels")
    count = config.label_clients or len(partition)
    most = f"at most the {len(partition)} clients"
    require(count <= len(partition), "data.label_clients", count, most)
    clients = draw.choose(len(partition), count)
    rows = [own[labels[own] >= 0] for own in map(partition.rows_of, map(int, clients))]
    room = np.array([len(own) for own in rows])
    most = f"at most the {room.sum()} labelled examples of {count} clients"
    require(config.labels <= room.sum(), "data.labels", config.labels, most)
    weights = np.ones(count)
    if config.label_gamma:
        weights = draw.generator().dirichlet(np.full(count, config.label_gamma))
    dealt = _dealt(config.labels, room, weights)
    parts = []
    for client, own, many in zip(clients, rows, dealt, strict=True):
        pick = stream(seed, "data/labels", client=partition.name_of(int(client)))
        parts.append(own[pick.choose(len(own), int(many))])
    return np.sort(np.concatenate(parts))


def _dealt(count: int, room: Rows, weights: NDArray[np.float64]) -> Rows:
    """`count` in proportion to `weights`; what is above a client's room goes to those with some."""
    dealt = np.zeros_like(room)
    while left := count - int(dealt.sum()):
        shares = np.where(dealt < room, weights, 0.0)
        if not shares.sum():
            shares = (dealt < room).astype(np.float64)
        ends = np.rint(np.cumsum(shares) / shares.sum() * left).astype(np.int64)
        dealt = np.minimum(dealt + np.diff(ends, prepend=0), room)
    return dealt


def _only(corpus: Corpus, partition: StoredPartition, kept: Rows) -> tuple[Corpus, Partition]:
    """The corpus with some of its training examples, and the clients that have any of them."""
    owned = [np.intersect1d(partition.rows_of(i), kept) for i in range(len(partition))]
    clients = [i for i, rows in enumerate(owned) if len(rows)]
    rows = np.searchsorted(kept, np.concatenate([owned[i] for i in clients]))
    starts = np.cumsum([0, *(len(owned[i]) for i in clients)])
    names = tuple(partition.name_of(i) for i in clients)
    codes = None if corpus.client_codes is None else corpus.client_codes[kept]
    train: Examples = corpus.train.take(kept)
    few = replace(corpus, train=train, client_codes=codes)
    return few, StoredPartition(rows, starts, names, partition.empty)
