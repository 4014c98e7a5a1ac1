"""Which training examples belong to which virtual client.

A partition rule is a function from the training rows to a `Partition`. The registry's names
(``natural``, ``iid``, ``dirichlet``, ``quantity``, ``shards``) are factories of such rules: they
take the options of the ``[partition]`` table and check them.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fedloom.core.errors import ConfigError, require
from fedloom.core.seeds import stream
from fedloom.simulation.holdings import DrawnPartition, Partition, StoredPartition
from fedloom.tuning.data import Corpus

__all__ = [
    "Rule",
    "TrainingRows",
    "dirichlet",
    "iid",
    "natural",
    "quantity",
    "shards",
]

Rows = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class TrainingRows:
    """What a rule is told of the training examples.

    Attributes:
        count: how many there are, N.
        labels: int64 ``[N]`` class numbers; None for a causal language model.
        client_codes: int64 ``[N]``, index of each row's owner in `client_names`, or None.
        client_names: names of the owners.
    """

    count: int
    labels: Rows | None = None
    client_codes: Rows | None = None
    client_names: tuple[str, ...] = ()

    @classmethod
    def of(cls, corpus: Corpus) -> "TrainingRows":
        """The facts of a corpus' training examples."""
        train = corpus.train
        return cls(len(train), train.labels, corpus.client_codes, corpus.client_names)


class Rule(Protocol):
    """How training rows are dealt out."""

    def __call__(self, rows: TrainingRows, seed: int) -> Partition:
        """Deal out the rows; the same seed deals the same.

        Raises:
            ConfigError: the rule needs labels or owners that the rows lack, or more rows.
        """
        ...


def natural() -> Rule:
    """Every client of the data holds its own rows."""

    def rule(rows: TrainingRows, seed: int) -> Partition:
        if rows.client_codes is None:
            text = "the data name no clients: set data.client, or choose iid or dirichlet"
            raise ConfigError(f"partition = 'natural': {text}")
        order = np.argsort(rows.client_codes, kind="stable").astype(np.int64)
        sizes = np.bincount(rows.client_codes, minlength=len(rows.client_names))
        return _stored(order, sizes, rows.client_names)

    return rule


def iid(clients: int, examples: int = 0) -> Rule:
    """Rows are shuffled and dealt out evenly; sizes differ by at most one.

    Args:
        clients: how many.
        examples: where not 0, every client instead draws so many rows for itself, so that there
            may be more clients than rows.
    """
    _whole("clients", clients)
    _whole("examples", examples, least=0)

    def rule(rows: TrainingRows, seed: int) -> Partition:
        if examples:
            most = f"at most the {rows.count} training rows"
            require(examples <= rows.count, "partition.examples", examples, most)
            return DrawnPartition(rows.count, clients, examples, seed)
        hint = f"at most the {rows.count} training rows, or set partition.examples"
        require(clients <= rows.count, "partition.clients", clients, hint)
        order = stream(seed, "partition/iid").permutation(rows.count)
        return _stored(order, np.diff(np.arange(clients + 1) * rows.count // clients))

    return rule


def dirichlet(clients: int, alpha: float) -> Rule:
    """The rows of each class are dealt out by shares from a symmetric Dirichlet distribution.

    A small `alpha` gives each client few classes. (Yurochkin et al., ICML 2019, section 4; "label
    distribution skew" of Li et al., ICDE 2022.)

    Args:
        clients: how many.
        alpha: concentration.
    """
    _whole("clients", clients)
    _positive("alpha", alpha)

    def rule(rows: TrainingRows, seed: int) -> Partition:
        labels = _labels(rows, "dirichlet")
        key = stream(seed, "partition/dirichlet")
        order = key.permutation(rows.count)
        draws = key.generator()
        owner = np.empty(rows.count, dtype=np.int64)
        for label in np.unique(labels):
            mine = order[labels[order] == label]
            shares = draws.dirichlet(np.full(clients, float(alpha)))
            owner[mine] = np.repeat(np.arange(clients), _cut(len(mine), shares))
        by_client = order[np.argsort(owner[order], kind="stable")]
        return _stored(by_client, np.bincount(owner, minlength=clients))

    return rule


def quantity(clients: int, sigma: float = 0.0, alpha: float = 0.0) -> Rule:
    """Clients of unequal size, the rows themselves shuffled.

    Args:
        clients: how many.
        sigma: sizes are in proportion to log-normal draws of this standard deviation.
        alpha: or shares come from a symmetric Dirichlet distribution of this concentration
            ("quantity skew" of Li et al., ICDE 2022).
    """
    _whole("clients", clients)
    name, value = ("alpha", alpha) if alpha else ("sigma", sigma)
    _positive(name, value)
    require(not (sigma and alpha), "partition.sigma", sigma, "give sigma or alpha, not both")

    def rule(rows: TrainingRows, seed: int) -> Partition:
        key = stream(seed, "partition/quantity")
        order = key.permutation(rows.count)
        draws = key.generator()
        if alpha:
            shares = draws.dirichlet(np.full(clients, float(alpha)))
        else:
            logs = sigma * draws.standard_normal(clients)
            weights = np.exp(logs - logs.max())  # in proportion the same, and never infinite
            shares = weights / weights.sum()
        return _stored(order, _cut(rows.count, shares))

    return rule


def shards(clients: int, per_client: int = 2) -> Rule:
    """Rows sorted by label are cut into equal shards, and each client gets some at random.

    The "pathological non-IID" partition (McMahan et al., AISTATS 2017, section 3).

    Args:
        clients: how many.
        per_client: shards of each client: about as many classes as it sees.
    """
    _whole("clients", clients)
    _whole("per_client", per_client)

    def rule(rows: TrainingRows, seed: int) -> Partition:
        labels = _labels(rows, "shards")
        count = clients * per_client
        allowed = f"at most {rows.count // per_client}: {rows.count} rows, {per_client} shards each"
        require(count <= rows.count, "partition.clients", clients, allowed)
        pieces = np.array_split(np.argsort(labels, kind="stable").astype(np.int64), count)
        dealt = [pieces[shard] for shard in stream(seed, "partition/shards").permutation(count)]
        sizes = np.array([len(piece) for piece in dealt]).reshape(clients, per_client).sum(1)
        return _stored(np.concatenate(dealt), sizes)

    return rule


def _stored(order: Rows, sizes: NDArray[np.int64], names: tuple[str, ...] = ()) -> Partition:
    """Rows in client order, cut by `sizes`; clients without rows are left out and counted."""
    full = np.flatnonzero(sizes)
    starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes[full], dtype=np.int64)])
    kept = tuple(names[client] for client in full) if names else ()
    return StoredPartition(order, starts, kept, len(sizes) - len(full))


def _cut(count: int, shares: NDArray[np.float64]) -> NDArray[np.int64]:
    """`count` rows by shares that sum to 1: the ends are rounded, so that no row is lost."""
    ends = np.rint(np.cumsum(shares) * count).astype(np.int64)
    ends[-1] = count
    return np.diff(ends, prepend=0)


def _labels(rows: TrainingRows, name: str) -> Rows:
    if rows.labels is None:
        text = "the examples have no labels: choose natural, iid or quantity"
        raise ConfigError(f"partition = {name!r}: {text}")
    if (rows.labels < 0).any():
        text = "some examples have no label: choose natural, iid or quantity"
        raise ConfigError(f"partition = {name!r}: {text}")
    return rows.labels


def _whole(name: str, value: object, *, least: int = 1) -> None:
    fits = isinstance(value, int) and not isinstance(value, bool) and value >= least
    require(fits, f"partition.{name}", value, f"a whole number, {least} or more")


def _positive(name: str, value: object) -> None:
    fits = isinstance(value, int | float) and 0 < value < float("inf")
    require(fits, f"partition.{name}", value, "a number above 0")
