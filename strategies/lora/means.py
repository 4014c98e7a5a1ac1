"""Methods whose aggregation is the mean of each tensor; they differ in what trains and is kept.

The mean of products is not the product of means: with the weights p_k,
``sum p_k B_k A_k - mean(B) mean(A) = sum p_k (B_k - mean(B)) (A_k - mean(A))``, the covariance over
the clients. It vanishes where one of the two factors is the same for all.
"""

from fedloom.strategies.aggregate import WeightedMean
from fedloom.strategies.compose import Composed
from fedloom.strategies.lora.planners import Keeping, Turns
from fedloom.strategies.optimizers import Sgd
from fedloom.strategies.plan import Constant

__all__ = ["fedit", "fedsa_lora", "ffa_lora", "rolora"]


def fedit(lr: float = 1.0) -> Composed:
    """Means of A and of B, each by itself.

    FedIT: Zhang et al., "Towards Building the Federated GPT: Federated Instruction Tuning", ICASSP
    2024, https://arxiv.org/abs/2305.05644. It is FedAvg.

    Args:
        lr: server learning rate.

    Raises:
        ConfigError: it is out of range.
    """
    return Composed(Constant(), WeightedMean(), Sgd(lr))


def ffa_lora(lr: float = 1.0) -> Composed:
    """A stays as the seed makes it; B is averaged, which is exact.

    FFA-LoRA: Sun, Li, Li and Ding, "Improving LoRA in Privacy-preserving Federated Learning", ICLR
    2024, https://arxiv.org/abs/2403.12313. A does not train on clients either. With
    ``train = ["B", "head"]`` in the job it does not travel.

    Args:
        lr: server learning rate.

    Raises:
        ConfigError: it is out of range.
    """
    return Composed(Turns((("A",),)), WeightedMean(), Sgd(lr))


def rolora(lr: float = 1.0) -> Composed:
    """B and A train in turns, B first: the mean of the one that moves is exact.

    RoLoRA: Chen et al., "Robust Federated Finetuning of Foundation Models via Alternating
    Minimization of LoRA", 2024, https://arxiv.org/abs/2409.02346. While B is zero A has no
    gradient, so B begins. A head trains in every round.

    Args:
        lr: server learning rate.

    Raises:
        ConfigError: it is out of range.
    """
    return Composed(Turns((("A",), ("B",))), WeightedMean(), Sgd(lr))


def fedsa_lora(lr: float = 1.0) -> Composed:
    """A is shared and averaged, and every client keeps a B (and a head) of its own.

    FedSA-LoRA: Guo et al., "Selective Aggregation for Low-Rank Adaptation in Federated Learning",
    ICLR 2025, https://arxiv.org/abs/2410.01463. The job says ``keep = ["B", "head"]``.

    Args:
        lr: server learning rate.

    Raises:
        ConfigError: it is out of range.
    """
    return Composed(Keeping("B", "fedsa-lora"), WeightedMean(), Sgd(lr))
