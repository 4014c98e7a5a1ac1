"""Attention on a GPU by torch's flash kernels, forward and backward, without a graph.

Dao, FlashAttention-2 (https://arxiv.org/abs/2307.08691): scores are never written to memory. The
kernels read queries, keys and values where the product left them, so nothing is gathered.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["FlashTape", "can_flash", "flash_backward", "flash_forward"]


@dataclass(frozen=True)
class FlashTape:
    """What the backward pass needs.

    Attributes:
        inputs: queries, keys and values, ``[R, heads, T, head_dim]``.
        out: the mixed values, likewise.
        rest: what the forward kernel returned for the backward kernel.
        causal: whether tokens attend to no later token.
    """

    inputs: tuple[Tensor, Tensor, Tensor]
    out: Tensor
    rest: tuple[Tensor, ...]
    causal: bool


def can_flash(tokens: Tensor, widths: tuple[int, int, int], head_dim: int) -> bool:
    """Whether the kernels take tokens of this type and device, with one key head per query head."""
    small = tokens.dtype in (torch.bfloat16, torch.float16)
    alike = widths[0] == widths[1] == widths[2] and head_dim % 8 == 0 and head_dim <= 128
    return tokens.is_cuda and small and alike


def flash_forward(
    qkv: Tensor, examples: int, head_dim: int, *, causal: bool
) -> tuple[Tensor, FlashTape]:
    """Attention of R examples of one length, laid end to end.

    Args:
        qkv: ``[R * T, 3 * heads * head_dim]``: queries, keys, values side by side.
        examples: R.
        head_dim: width of one head.
        causal: tokens attend to no later token.

    Returns:
        Mixed values ``[R * T, heads * head_dim]``, and the tape.
    """
    width = qkv.shape[1] // 3
    grid = qkv.view(examples, -1, 3, width // head_dim, head_dim)
    q, k, v = (grid[:, :, part].transpose(1, 2) for part in range(3))
    out, *rest = torch.ops.aten._scaled_dot_product_flash_attention(q, k, v, 0.0, causal)
    tape = FlashTape((q, k, v), out, tuple(rest[:7]), causal)
    return out.transpose(1, 2).reshape(len(qkv), width), tape


def flash_backward(tape: FlashTape, d_mixed: Tensor) -> Tensor:
    """The gradient to queries, keys and values side by side, ``[R * T, 3 * heads * head_dim]``."""
    examples, heads, _, head_dim = tape.out.shape
    d_out = d_mixed.view(examples, -1, heads, head_dim).transpose(1, 2)
    lse, q_ends, k_ends, q_most, k_most, seed, offset = tape.rest
    parts = torch.ops.aten._scaled_dot_product_flash_attention_backward(
        d_out,
        *tape.inputs,
        tape.out,
        lse,
        q_ends,
        k_ends,
        q_most,
        k_most,
        0.0,
        tape.causal,
        seed,
        offset,
    )
    columns = [part.transpose(1, 2).reshape(len(d_mixed), -1) for part in parts]
    return torch.cat(columns, dim=1)
