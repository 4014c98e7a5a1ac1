"""Methods that aggregate products exactly: what two factors cannot hold goes into the side-car.

The papers add it to the frozen weights, where stored weights in fewer bits would lose it; here it
stands beside them in float, as factors ``side_B side_A`` of a rank R that the adapter sets. They
have the pair's own scaling, which so cancels. What a round adds is recompressed to R; what that
cuts off is lost, and told as ``side_lost``.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fedloom.core.seeds import stream
from fedloom.core.types import Params
from fedloom.strategies.compose import Composed
from fedloom.strategies.lora.algebra import Factors, Matrix, recompress
from fedloom.strategies.lora.pairs import Member, Pair
from fedloom.strategies.lora.planners import Ranks
from fedloom.strategies.lora.rule import Next, PairRule, padded_mean
from fedloom.strategies.optimizers import Sgd

__all__ = ["FedEx", "Flora", "covariance", "fedex_lora", "flora"]


@dataclass(frozen=True)
class FedEx:
    """Means of both factors, and their covariance over the clients beside them."""

    name = "fedex-lora"
    needs_side = True

    def next(self, params: Params, pair: Pair, cohort: Sequence[Member]) -> Next:
        """The next factors of one module; see `Rule`."""
        rank = pair.factors(params).a.shape[0]
        mean = padded_mean(cohort, rank, [member.weight for member in cohort])
        return _beside(params, pair, mean, covariance(cohort, mean))


@dataclass(frozen=True)
class Flora:
    """The sum of the clients' products beside a pair that begins anew."""

    name = "flora"
    needs_side = True

    def next(self, params: Params, pair: Pair, cohort: Sequence[Member]) -> Next:
        """The next factors of one module; see `Rule`."""
        own = pair.factors(params)
        fresh = Factors(np.zeros_like(own.b), _begun(pair.a, own.a))
        terms = [member.factors.scaled(member.weight) for member in cohort]
        return _beside(params, pair, fresh, terms)


def covariance(cohort: Sequence[Member], mean: Factors) -> list[Factors]:
    """``sum p_k (B_k - mean(B)) (A_k - mean(A))``, a term for each client of full rank."""
    rank, terms = mean.a.shape[0], []
    for member in cohort:
        own = padded_mean([member], rank, [1.0])
        terms.append(Factors(member.weight * (own.b - mean.b), own.a - mean.a))
    return terms


def fedex_lora(
    ranks: tuple[tuple[int, float], ...] = (), memory: tuple[tuple[int, int], ...] = ()
) -> Composed:
    """Means of A and B, and beside them what the mean of the products has more.

    FedEx-LoRA: Singhal, Ponkshe and Vepakomma, "FedEx-LoRA: Exact Aggregation for Federated and
    Efficient Fine-Tuning of Foundation Models", ACL 2025, https://arxiv.org/abs/2410.09432. What a
    round adds has rank (K - 1) r at most, for K clients.

    Args:
        ranks: pairs of a rank and the share of the clients that have it; empty for all of it.
        memory: pairs of a rank and the MiB from which a client has it; empty for all of it.

    Raises:
        ConfigError: an argument is out of range.
    """
    return Composed(Ranks(ranks, memory), PairRule(FedEx()), Sgd())


def flora(
    ranks: tuple[tuple[int, float], ...] = (), memory: tuple[tuple[int, int], ...] = ()
) -> Composed:
    """The clients' factors stacked, and a new pair for every round.

    FLoRA: Wang et al., "FLoRA: Federated Fine-Tuning Large Language Models with Heterogeneous
    Low-Rank Adaptations", NeurIPS 2024, https://arxiv.org/abs/2409.05976. The next A is made from
    the one before, and so from the run's seed and the round. What a round adds has the sum of the
    clients' ranks.

    Args:
        ranks: pairs of a rank and the share of the clients that have it; empty for all of it.
        memory: pairs of a rank and the MiB from which a client has it; empty for all of it.

    Raises:
        ConfigError: an argument is out of range.
    """
    return Composed(Ranks(ranks, memory), PairRule(Flora()), Sgd())


def _beside(params: Params, pair: Pair, fresh: Factors, terms: Sequence[Factors]) -> Next:
    """A pair with a side-car that has some products more."""
    side = pair.side(params)
    found = recompress([side, *terms], side.a.shape[0])
    return Next(fresh, found.factors, found.kept, found.lost)


def _begun(name: str, a: Matrix) -> Matrix:
    """A as LoRA starts, uniform in +-1/sqrt(d_in): other numbers than before, and always the same.

    Args:
        name: of A.
        a: A of the round before, float64 ``[r, d_in]``.
    """
    digest = hashlib.sha256(a.astype(np.float32).tobytes()).digest()
    seed = int.from_bytes(digest[:8], "little") >> 1
    numbers = stream(seed, "initial", client=name).uniform(a.size).reshape(a.shape)
    begun: Matrix = (2 * numbers - 1) / math.sqrt(a.shape[1])
    return begun
