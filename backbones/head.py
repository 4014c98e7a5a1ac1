"""What stands on top of the blocks: BERT's pooler and the language-model head, both frozen."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from fedloom.backbones.assemble import Source
from fedloom.backbones.product import Quantized, multiply, multiply_back
from fedloom.backbones.schemes import Packed

__all__ = ["SAVED_HEADS", "FrozenLinear", "load_head", "load_pooler"]

SAVED_HEADS = ("classifier", "score")
"""What checkpoints of sequence classifiers call their own head."""


@dataclass(frozen=True)
class FrozenLinear:
    """``x W^T + b``, differentiable in x only.

    Attributes:
        weight: ``[d_out, d_in]``.
        bias: ``[d_out]``, or None.
    """

    weight: Tensor | Quantized
    bias: Tensor | None

    def __call__(self, x: Tensor) -> Tensor:
        """Map ``[..., d_in]`` to ``[..., d_out]``."""
        if not torch.is_grad_enabled():
            return multiply(x.flatten(0, -2), self.weight, self.bias).view(*x.shape[:-1], -1)
        y: Tensor = _Affine.apply(x.flatten(0, -2), self.weight, self.bias)  # type: ignore[no-untyped-call]
        return y.view(*x.shape[:-1], -1)

    def rows(self, tokens: Sequence[int]) -> Tensor:
        """Some rows of the weight, ``[n, d_in]``."""
        weight = self.weight
        if isinstance(weight, Tensor):
            return weight[torch.tensor(tokens, device=weight.device)]
        return torch.cat([weight[token : token + 1].whole() for token in tokens])


class _Affine(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor | Quantized, bias: Tensor | None) -> Tensor:
        ctx.weight = weight
        return multiply(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None, None]:
        return multiply_back(dy.contiguous(), ctx.weight), None, None


def load_pooler(source: Source) -> FrozenLinear | None:
    """BERT's pooler, where the family has one and the checkpoint holds it."""
    if "pooler" not in source.family.outer:
        return None
    names = [source.family.stored(source.family.outer["pooler"], f) for f in ("weight", "bias")]
    weight, bias = (source.checkpoint.find(n) for n in names)
    if weight is None or bias is None:
        return None
    return FrozenLinear(weight.to(source.dtype), bias.to(source.dtype))


def load_head(source: Source, tokens: Tensor | Packed) -> FrozenLinear | None:
    """The language-model head of a causal family: its own, or the embedding `tokens` where tied."""
    if not source.shape.causal:
        return None
    if source.shape.tied:
        return FrozenLinear(source.linear(tokens), None)
    names = ("lm_head.weight",)
    weight = source.checkpoint.packed(names) or source.checkpoint.find(names)
    return None if weight is None else FrozenLinear(source.linear(weight), None)
