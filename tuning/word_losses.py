"""Losses of next words, some rows of logits at a time: a vocabulary may be 150,000 words."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from fedloom.backbones.fused import FusedBackbone
from fedloom.backbones.head import FrozenLinear
from fedloom.backbones.norm import frozen_norm
from fedloom.backbones.product import multiply, multiply_back
from fedloom.backbones.tangents import dual

__all__ = ["CHUNK", "word_losses"]

CHUNK = 64 << 20
"""Bytes of float32 logits at a time."""
_DUAL = 16
"""Where a derivative goes along, a quarter as many: each takes 16 to 24 bytes then, measured."""


def word_losses(backbone: FusedBackbone, rows: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy of each row in float32, and the word that it predicts.

    Where not all logits go at once, the gradient is made with the loss, ``(softmax(z) - e_t) W``,
    so that logits are kept nowhere; a forward-mode derivative goes through them part by part.

    Args:
        backbone: with a language-model head.
        rows: ``[n, d]``, as `FusedBackbone.run` returns them.
        target: int64 ``[n]``.

    Returns:
        float32 ``[n]`` and int64 ``[n]``.

    Raises:
        ModelError: the family or the checkpoint has no language-model head.
    """
    head = backbone.head
    along = dual(rows)
    step = 0 if head is None else CHUNK // (head.weight.shape[0] * (_DUAL if along else 4))
    if head is None or len(rows) <= step:
        return _at_once(backbone, rows, target)
    if along:
        step = max(step, 1)
        parts = zip(rows.split(step), target.split(step), strict=True)
        each, words = zip(*(_at_once(backbone, *part) for part in parts), strict=True)
        return torch.cat(each), torch.cat(words)
    read = rows if backbone.final is None else frozen_norm(backbone.final, rows)
    found: tuple[Tensor, Tensor] = _Words.apply(read, head, target)  # type: ignore[no-untyped-call]
    return found


def _at_once(backbone: FusedBackbone, rows: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    logits = backbone.token_logits(rows)
    each = functional.cross_entropy(logits.float(), target, reduction="none")
    return each, logits.detach().argmax(dim=-1)


class _Words(torch.autograd.Function):
    """``-log softmax(W x + b)[t]`` of each row."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, head: FrozenLinear, target: Tensor) -> tuple[Tensor, Tensor]:
        step = max(CHUNK // (4 * head.weight.shape[0]), 1)
        each, predicted = x.new_empty(len(x), dtype=torch.float32), torch.empty_like(target)
        ctx.slope = torch.empty_like(x) if ctx.needs_input_grad[0] else None
        for start in range(0, len(x), step):
            own = slice(start, start + step)
            logits = multiply(x[own], head.weight, head.bias).float()
            predicted[own] = logits.argmax(1)
            logits -= logits.amax(1, keepdim=True)
            mine = logits.gather(1, target[own, None])
            total = logits.exp_().sum(1, keepdim=True)
            each[own] = (total.log() - mine)[:, 0]
            if ctx.slope is not None:
                logits /= total
                logits.scatter_add_(1, target[own, None], -torch.ones_like(total))
                ctx.slope[own] = multiply_back(logits.to(x.dtype), head.weight)
        ctx.mark_non_differentiable(predicted)
        return each, predicted

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_each: Tensor, d_predicted: Tensor) -> tuple[Tensor, None, None]:
        return ctx.slope * d_each[:, None].to(ctx.slope.dtype), None, None
