"""Attachments as autograd operations, for code that is not hand-written around them."""

from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd import Function

from fedloom.backbones.base import Attachment

__all__ = ["attach"]


def attach(x: Tensor, y: Tensor, attachment: Attachment, anchor: Tensor) -> Tensor:
    """The changed output of one site.

    Args:
        x: input of the frozen operation, ``[k, L, d_in]``.
        y: its output, ``[k, L, d_out]``; not written to.
        attachment: what is attached.
        anchor: a scalar that requires grad, so that the attachment's gradient is asked for even
            where neither `x` nor `y` needs one.
    """
    if not torch.is_grad_enabled():
        return attachment.forward(x, y.clone())[0]
    return cast(Tensor, _Attach.apply(x, y, anchor, attachment))  # type: ignore[no-untyped-call]


class _Attach(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, anchor: Tensor, attachment: Attachment) -> Tensor:
        out, saved = attachment.forward(x, y.clone())
        ctx.save_for_backward(*saved)
        ctx.attachment = attachment
        ctx.shape, ctx.dtype = x.shape, x.dtype
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        dy, add = ctx.attachment.backward(ctx.saved_tensors, grads[0].clone())
        dx = None
        if add is not None and ctx.needs_input_grad[0]:
            dx = add(dy.new_zeros(ctx.shape, dtype=ctx.dtype))
        return dx, dy if ctx.needs_input_grad[1] else None, None, None
