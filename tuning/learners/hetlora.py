"""Clients that prune the rank of their own adapters.

HetLoRA: Cho, Liu, Xu, Fahrezi and Joshi, "Heterogeneous LoRA for Federated Fine-tuning of On-Device
Foundation Models", EMNLP 2024, https://arxiv.org/abs/2401.06432, its rank self-pruning. Of a
client's rank r the last, from floor(gamma r) on, are its tail. Beside its loss it minimises

    lambda sum_m ||B_m[:, tail]|| ||A_m[tail, :]||    (Frobenius norms, over modules m)

and where that sum is smaller at the end of its round than at the start, it gives the tail up: it
sends floor(gamma r) rows and columns, and that is its rank from then on.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from fedloom.core.errors import require
from fedloom.core.layout import TensorSpec
from fedloom.core.ranks import factor_pairs, largest_rank, limited
from fedloom.core.types import Briefing, LocalWork, Params
from fedloom.tuning.base import Session
from fedloom.tuning.learners.backprop import backpropagated
from fedloom.tuning.learning import NOTHING, Assignment, LocalResult
from fedloom.tuning.store import Store

__all__ = ["HetLora", "Tail"]


class HetLora:
    """Backpropagation with a price on the last ranks, which are given up where they shrink.

    Args:
        decay: gamma: what is left of a rank that is pruned, rounded down, and 1 at least.
        price: lambda; 0 prunes by what training does by itself.

    Raises:
        ConfigError: an argument is out of range.
    """

    keeps = True
    """Clients may have tensors of their own."""

    ranks = True
    """Clients may have a part of the adapter's rank."""

    prunes = True
    """They may give up some of it for good."""

    def __init__(self, decay: float = 0.99, price: float = 5e-4) -> None:
        require(0 < decay < 1, "decay", decay, "above 0 and below 1")
        require(0 <= price < float("inf"), "price", price, "0 or more, and finite")
        self.decay, self.price = decay, price

    def train(
        self,
        session: Session,
        params: Params,
        work: LocalWork,
        cohort: Sequence[Assignment],
        briefing: Briefing = NOTHING,
    ) -> list[LocalResult]:
        """As `Backprop.train`; each result says the rank that its client has come to."""
        rank = cohort[0].rank or largest_rank(params.layout)
        start = max(int(self.decay * rank), 1)
        tail = Tail(tuple(factor_pairs(params.layout)), start, self.price)
        results = backpropagated(session, params, work, cohort, tail.add_gradient)
        return [
            _pruned(result, params if one.own is None else params.having(one.own), rank, tail)
            for result, one in zip(results, cohort, strict=True)
        ]


@dataclass(frozen=True)
class Tail:
    """The last ranks of every pair.

    Attributes:
        pairs: A ``[r, d_in]`` and B ``[d_out, r]`` of each module.
        start: how many ranks come before it.
        price: lambda.
    """

    pairs: tuple[tuple[TensorSpec, TensorSpec], ...]
    start: int
    price: float

    def size(self, params: Params) -> float:
        """``sum_m ||B_m[:, tail]|| ||A_m[tail, :]||``."""
        whole = 0.0
        for a, b in self.pairs:
            rows = params.layout.view(params.vector, a.name)[self.start :].astype(np.float64)
            columns = params.layout.view(params.vector, b.name)[:, self.start :].astype(np.float64)
            whole += float(np.linalg.norm(rows) * np.linalg.norm(columns))
        return whole

    def add_gradient(self, store: Store) -> None:
        """Add lambda times the gradient of `size`: of B it is ``||A|| B / ||B||``, 0 where B is 0.

        Args:
            store: the clients' rows, each by itself.
        """
        for a, b in self.pairs:
            rows = store.view(a.name, dtype=torch.float32)[:, self.start :]
            columns = store.view(b.name, dtype=torch.float32)[:, :, self.start :]
            norms = [part.flatten(1).norm(dim=1) for part in (rows, columns)]
            both = zip((a, b), (rows, columns), norms, reversed(norms), strict=True)
            for spec, part, own, other in both:
                grad = store.grad_view(spec.name)
                if grad is not None:
                    scale = torch.where(own > 0, self.price * other / own.clamp(min=1e-30), 0.0)
                    here = grad[:, self.start :] if spec is a else grad[:, :, self.start :]
                    here.add_(part * scale[:, None, None])


def _pruned(result: LocalResult, before: Params, rank: int, tail: Tail) -> LocalResult:
    """A result that says the rank that its client has come to.

    Args:
        result: what training gave.
        before: where the client started.
        rank: what it had.
        tail: what it may give up.
    """
    trained = before.only(result.layout)
    after = before.having(Params(trained.layout, trained.vector + result.delta))
    left = tail.start if tail.size(after) < tail.size(before) else rank
    kept = None if result.kept is None else limited(result.kept, left)
    return replace(result, rank=left, kept=kept)
