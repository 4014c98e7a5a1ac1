"""Methods for clients of several ranks that need nothing beside the pair.

A client of rank r has the first r rows of A and columns of B. All scale their products alike, so
that no weight has to make up for a scale; weights are the shares of the examples, p_k.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fedloom.core.errors import require
from fedloom.core.types import Params
from fedloom.strategies.compose import Composed
from fedloom.strategies.lora.algebra import Factors, norm, recompress
from fedloom.strategies.lora.exact import covariance
from fedloom.strategies.lora.pairs import Member, Pair
from fedloom.strategies.lora.planners import Ranks
from fedloom.strategies.lora.rule import Next, PairRule, padded_mean
from fedloom.strategies.optimizers import Sgd

__all__ = ["Fair", "Flex", "Het", "flexlora", "hetlora", "lora_fair"]


@dataclass(frozen=True)
class Flex:
    """The nearest pair to the sum of the clients' products.

    Attributes:
        slots: each direction is weighed among the clients that have room for it.
    """

    slots: bool = False
    name = "flexlora"
    needs_side = False

    def next(self, params: Params, pair: Pair, cohort: Sequence[Member]) -> Next:
        """The next factors of one module; see `Rule`."""
        rank = pair.factors(params).a.shape[0]
        ranks = np.array([member.factors.a.shape[0] for member in cohort])
        weights = np.array([member.weight for member in cohort])
        # Slot j is among the first r_k of a client with r_k > j; with all, its share is 1.
        share = np.array([weights[ranks > slot].sum() for slot in range(rank)])
        terms = []
        for member in cohort:
            own = member.factors
            divisor = share[: own.a.shape[0]] if self.slots else np.ones(own.a.shape[0])
            terms.append(Factors(own.b * (member.weight / divisor), own.a))
        found = recompress(terms, rank)
        return Next(found.factors, kept=found.kept, lost=found.lost)


@dataclass(frozen=True)
class Het:
    """Means of padded factors, weighted by the size of the clients' products."""

    name = "hetlora"
    needs_side = False

    def next(self, params: Params, pair: Pair, cohort: Sequence[Member]) -> Next:
        """The next factors of one module; see `Rule`."""
        rank = pair.factors(params).a.shape[0]
        norms = [norm(member.factors) for member in cohort]
        whole = sum(norms)
        weights = [n / whole for n in norms] if whole else [m.weight for m in cohort]
        return Next(padded_mean(cohort, rank, weights))


@dataclass(frozen=True)
class Fair:
    """The mean of A, and B moved towards the mean of the products.

    Attributes:
        keeps: lambda.
    """

    keeps: float = 0.01
    name = "lora-fair"
    needs_side = False

    def next(self, params: Params, pair: Pair, cohort: Sequence[Member]) -> Next:
        """The next factors of one module; see `Rule`.

        With ``E = sum p_k B_k A_k - mean(B) mean(A)``, ``||E - D mean(A)||^2 + lambda ||D||^2`` is
        least at ``D = E mean(A)^T (mean(A) mean(A)^T + lambda I)^-1``.
        """
        rank = pair.factors(params).a.shape[0]
        mean = padded_mean(cohort, rank, [member.weight for member in cohort])
        terms = covariance(cohort, mean)
        wanted = sum((term.b @ (term.a @ mean.a.T) for term in terms), np.zeros_like(mean.b))
        gram = mean.a @ mean.a.T + self.keeps * np.eye(rank)
        return Next(Factors(mean.b + np.linalg.solve(gram, wanted.T).T, mean.a))


def flexlora(
    slots: bool = False,
    ranks: tuple[tuple[int, float], ...] = (),
    memory: tuple[tuple[int, int], ...] = (),
) -> Composed:
    """The best pair of the adapter's rank for the mean of the clients' products.

    FlexLoRA: Bai, Chen, Qian, Yao and Li, "Federated Fine-tuning of Large Language Models under
    Heterogeneous Tasks and Client Resources", NeurIPS 2024, https://arxiv.org/abs/2402.11505. Its
    dense singular value decomposition is one of small factors here, with the same result; singular
    values are shared out between both factors. ``rank_lost`` is what the rank cuts off.

    Args:
        slots: weigh the j-th direction among the clients whose rank is at least j, against the
            collapse to the smallest rank (raFLoRA, https://arxiv.org/abs/2602.13486).
        ranks: pairs of a rank and the share of the clients that have it; empty for all of it.
        memory: pairs of a rank and the MiB from which a client has it; empty for all of it.

    Raises:
        ConfigError: an argument is out of range.
    """
    return Composed(Ranks(ranks, memory), PairRule(Flex(slots)), Sgd())


def hetlora(
    ranks: tuple[tuple[int, float], ...] = (), memory: tuple[tuple[int, int], ...] = ()
) -> Composed:
    """Zero padding, and weights by the Frobenius norms of the clients' products, module by module.

    HetLoRA: Cho, Liu, Xu, Fahrezi and Joshi, "Heterogeneous LoRA for Federated Fine-tuning of
    On-Device Foundation Models", EMNLP 2024, https://arxiv.org/abs/2401.06432: its aggregation and
    distribution. Clients prune their ranks with the learner of the same name; else these stay.

    Args:
        ranks: pairs of a rank and the share of the clients that have it; empty for all of it.
        memory: pairs of a rank and the MiB from which a client has it; empty for all of it.

    Raises:
        ConfigError: an argument is out of range.
    """
    return Composed(Ranks(ranks, memory), PairRule(Het()), Sgd())


def lora_fair(keeps: float = 0.01) -> Composed:
    """Means of both factors, and B corrected towards the mean of the products.

    LoRA-FAIR: Bian, Wang, Zhang and Xu, "LoRA-FAIR: Federated LoRA Fine-Tuning with Aggregation and
    Initialization Refinement", ICCV 2025, https://arxiv.org/abs/2411.14961. The paper measures
    nearness by cosine and finds it by gradient steps, of which it is not known how many and how
    long; here it is least squares with a squared norm, in closed form.
    What lies outside of the rows of the mean A cannot be made up for.

    Args:
        keeps: lambda, what a correction costs.

    Raises:
        ConfigError: it is out of range.
    """
    require(0 < keeps < float("inf"), "keeps", keeps, "above 0 and finite")
    return Composed(Ranks(), PairRule(Fair(keeps)), Sgd())
