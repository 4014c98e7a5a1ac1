"""FLTrust: clients are trusted as far as they point where a trusted one does.

Cao, Fang, Liu and Gong, "FLTrust: Byzantine-robust Federated Learning via Trust Bootstrapping",
NDSS 2021, https://arxiv.org/abs/2012.13995. With the root's delta g0 and
``TS_i = ReLU(cos(g_i, g0))``, each delta is scaled to the length of g0, and the model moves along
``sum_i TS_i g_i' / sum_i TS_i``.

The paper's server trains on a small clean data set of its own. Here that is a client that whoever
runs the federation trusts, such as one that it runs itself: it is named as ``root``, takes the same
task as the others, and its own delta is no part of the mean. Examples do not count.
"""

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from fedloom.core.errors import ConfigError, require
from fedloom.core.layout import Layout, Vector
from fedloom.core.types import ClientId
from fedloom.strategies.compose import Composed
from fedloom.strategies.held_cohort import HeldCohort
from fedloom.strategies.optimizers import Sgd
from fedloom.strategies.over_cohort import OverCohort, check_absent, held_mean
from fedloom.strategies.plan import Constant

__all__ = ["RootThere", "Trusting", "fltrust"]


@dataclass(frozen=True)
class RootThere:
    """A round needs the root, and somebody beside it.

    Attributes:
        root: id of the trusted client.
    """

    root: ClientId

    def __post_init__(self) -> None:
        require(bool(self.root), "root", self.root, "the id of a client that is trusted")

    def check_cohort(self, clients: Collection[ClientId]) -> None:
        """Refuse a round without the root, or of the root alone.

        Raises:
            ConfigError: it is one.
        """
        if clients and self.root not in clients:
            text = f"root = {self.root!r} has no task in this round; it is needed in every one"
            raise ConfigError(f"fltrust: {text} (clients_per_round: as many as there are clients)")
        if len(clients) == 1:
            raise ConfigError("fltrust: n = 1 client: the root and one more are needed")

    def lacking(self, total: HeldCohort) -> int:
        """The root, or anybody beside it."""
        there = any(update.client == self.root for update in total.updates)
        return (not there) + (len(total) - there < 1)


@dataclass(frozen=True)
class Trusting:
    """The mean of deltas of the root's length, weighted by how they agree with the root's.

    Attributes:
        root: id of the trusted client.
        absent: ``skip`` or ``unchanged``: what it means for the mean that an update lacks a tensor;
            for angles and lengths it is a delta of zero.
    """

    root: ClientId
    absent: str = "skip"

    def __post_init__(self) -> None:
        check_absent(self.absent)

    def combined(self, held: HeldCohort, layout: Layout) -> Vector:
        """The trusted mean; zero where nobody agrees with the root."""
        root = [update.client for update in held.updates].index(self.root)
        squares, products = np.zeros(len(held)), np.zeros(len(held))
        for block in held.blocks(layout):
            rows = block.rows.astype(np.float64)
            squares += np.einsum("ij,ij->i", rows, rows)
            products += rows @ rows[root]
        lengths = np.sqrt(squares)
        both = lengths * lengths[root]
        trust = np.maximum(np.divide(products, both, out=np.zeros(len(held)), where=both > 0), 0.0)
        trust[root] = 0.0
        if not trust.any():
            return np.zeros(layout.size, dtype=np.float32)
        scale = np.divide(lengths[root], lengths, out=np.zeros(len(held)), where=lengths > 0)
        return held_mean(held, layout, trust, self.absent, scale=scale)


def fltrust(root: str, lr: float = 1.0, absent: str = "skip") -> Composed:
    """Move along the deltas that agree with a trusted client's.

    Args:
        root: id of the trusted client; it has to be in every round.
        lr: server learning rate.
        absent: ``skip`` or ``unchanged``: what a tensor missing from an update means.

    Raises:
        ConfigError: an argument is out of range.
    """
    return Composed(Constant(), OverCohort(Trusting(root, absent), RootThere(root)), Sgd(lr))
