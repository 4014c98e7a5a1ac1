"""The registered clients: any number of them, none kept in memory until it is asked for."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedloom.core.seeds import stream
from fedloom.core.types import Client, Cohort, LocalWork, Selectors, Tier
from fedloom.simulation.holdings import Partition

__all__ = ["Population", "Skew"]

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Skew:
    """How unlike each other the clients are.

    Attributes:
        clients: how many clients there are.
        looked_at: how many of them the other numbers are taken over.
        total_variation: mean distance of a client's label mix from the mix of all training rows,
            ``sum |p_client - p_all| / 2``: 0 alike, towards 1 disjoint; None without labels.
        top_share: mean share of a client's most frequent class; None without labels.
        size_min: rows of the smallest client.
        size_median: rows of the middle client.
        size_mean: rows of a client on average.
        size_max: rows of the largest client.
        gini: inequality of sizes: 0 equal, towards 1 one client holds all.
    """

    clients: int
    looked_at: int
    total_variation: float | None
    top_share: float | None
    size_min: int
    size_median: float
    size_mean: float
    size_max: int
    gini: float


@dataclass(frozen=True, eq=False)
class Population:
    """The clients of a partition.

    Attributes:
        partition: who has which rows.
        seed: the run's seed, from which cohorts are chosen.
        tiers: kinds of devices, and their shares of the clients.
    """

    partition: Partition
    seed: int = 0
    tiers: tuple[Tier, ...] = ()

    def __len__(self) -> int:
        return len(self.partition)

    def client(self, index: int) -> Client:
        """The client of a number, from 0."""
        name = self.partition.name_of(index)
        return Client(name, self.partition.size_of(index), self.tier(name))

    def tier(self, name: str) -> str:
        """The kind of device that a client has: dealt out by its name and the shares."""
        if not self.tiers:
            return ""
        place = float(stream(self.seed, "tier", client=name).uniform(1)[0])
        for tier in self.tiers:
            if place < tier.share:
                return tier.name
            place -= tier.share
        return ""

    def rows_of(self, name: str) -> Rows:
        """int64, the training rows of the client of that name.

        Raises:
            KeyError: no client has that name.
        """
        return self.partition.rows_of(self.partition.index_of(name))

    def cohort(
        self,
        round: int,
        size: int,
        *,
        work: LocalWork = LocalWork(),  # noqa: B008 (a frozen value)
        selectors: Selectors = Selectors(),  # noqa: B008
        drawn: int = 0,
    ) -> Cohort:
        """Choose the clients of a round, uniformly and without listing the population.

        Args:
            round: its number, from 1; the same round of the same run chooses the same clients.
            size: how many; all clients where fewer are registered.
            work: the job's numbers of local training.
            selectors: the job's selectors.
            drawn: number of the round whose clients they are; 0 for its own.
        """
        key = stream(self.seed, "cohort", round=drawn or round)
        chosen = key.choose(len(self), min(size, len(self)))
        clients = tuple(self.client(int(index)) for index in chosen)
        return Cohort(round, clients, work, selectors, self.seed)

    def skew(self, labels: Rows | None, *, at_most: int = 2000, least: int = 1) -> Skew:
        """Statistics of the clients' sizes and label mixes.

        Args:
            labels: int64 ``[N]`` class numbers of the training rows, or None.
            at_most: of more clients, so many are looked at, chosen by the seed.
            least: clients with fewer rows are passed over in the label statistics: a client of
                one row has one class whatever the partition.
        """
        count = min(at_most, len(self))
        clients = stream(self.seed, "skew").choose(len(self), count)
        sizes = self.partition.sizes[clients]
        far, top = self._label_skew(labels, clients[sizes >= least])
        return Skew(
            clients=len(self),
            looked_at=count,
            total_variation=far,
            top_share=top,
            size_min=int(sizes.min()),
            size_median=float(np.median(sizes)),
            size_mean=float(sizes.mean()),
            size_max=int(sizes.max()),
            gini=_gini(sizes),
        )

    def _label_skew(self, labels: Rows | None, clients: Rows) -> tuple[float | None, float | None]:
        if labels is None or not len(clients):
            return None, None
        overall = np.bincount(labels)
        counts = np.array(
            [
                np.bincount(labels[self.partition.rows_of(int(client))], minlength=len(overall))
                for client in clients
            ]
        )
        mixes = counts / counts.sum(axis=1, keepdims=True)  # [clients, classes]
        far = np.abs(mixes - overall / len(labels)).sum(axis=1) / 2
        return float(far.mean()), float(mixes.max(axis=1).mean())


def _gini(sizes: Rows) -> float:
    """``sum_i (2 i - n - 1) x_i / (n sum x)`` over sizes in ascending order, i from 1."""
    n = len(sizes)
    weights = 2 * np.arange(1, n + 1) - n - 1
    return float((weights * np.sort(sizes)).sum() / (n * sizes.sum()))
