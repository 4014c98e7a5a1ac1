"""Layer norm and RMS norm with frozen weights, forward and backward."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from fedloom.backbones.base import AddToInput, Saved, Site, Sites
from fedloom.backbones.fusion import fused_on_gpu
from fedloom.backbones.product import per_client, put
from fedloom.backbones.tangents import dual

__all__ = ["Norm", "NormTape", "frozen_norm"]


@dataclass(frozen=True)
class NormTape:
    """What the backward pass of a norm needs.

    Attributes:
        clients: k.
        kept: input and statistics, as the kind of norm wants them.
        site: what is attached, or None.
        after: what its `after` saved.
        before: what its `before` saved.
    """

    clients: int
    kept: Saved
    site: Site | None
    after: Saved = ()
    before: Saved = ()


@dataclass(frozen=True)
class Norm:
    """A norm over the last axis; statistics are float32 whatever the type of the hidden states.

    Layer norm (https://arxiv.org/abs/1607.06450) subtracts the mean and divides by the standard
    deviation; RMS norm (https://arxiv.org/abs/1910.07467) divides by the root mean square.

    Attributes:
        name: module path.
        weight: ``[d]``.
        bias: ``[d]`` of layer norm; None makes it an RMS norm.
        eps: added to the variance.
    """

    name: str
    weight: Tensor
    bias: Tensor | None
    eps: float

    def forward(self, x: Tensor, clients: int, sites: Sites) -> tuple[Tensor, NormTape]:
        """Normalise ``[n, d]``; return the same shape and the tape."""
        site = sites.get(self.name)
        before: Saved = ()
        if site is not None and site.before is not None:
            own = per_client(x.clone(), clients)
            changed, before = site.before.forward(own, own)
            x = changed.reshape(x.shape)
        y, kept = self.apply(x)
        if site is None or site.after is None:
            return y, NormTape(clients, kept, site, (), before)
        own = per_client(y, clients)
        changed, after = site.after.forward(per_client(x, clients), own)
        put(changed, own)
        return y, NormTape(clients, kept, site, after, before)

    def backward(self, tape: NormTape, dy: Tensor, *, need_dx: bool) -> Tensor | None:
        """The gradient to the input ``[n, d]``, or None where it is not wanted; `dy` is kept."""
        share: AddToInput | None = None
        site = tape.site
        if site is not None and site.after is not None:
            own = per_client(dy.clone(), tape.clients)
            changed, share = site.after.backward(tape.after, own)
            dy = changed.reshape(dy.shape)
        before = None if site is None else site.before
        if not need_dx and before is None:
            return None
        dx = self.gradient(tape.kept, dy)
        if share is not None:
            dx = share(per_client(dx, tape.clients)).reshape(dx.shape)
        if before is not None:
            inner, _ = before.backward(tape.before, per_client(dx, tape.clients))
            dx = inner.reshape(dx.shape)
        return dx if need_dx else None

    def apply(self, x: Tensor) -> tuple[Tensor, Saved]:
        """The norm of ``[..., d]`` alone, and its input and statistics."""
        if self.bias is None:
            return _rms(x, self.weight, self.eps)
        shape = [x.shape[-1]]
        y, mean, scale = torch.native_layer_norm(x, shape, self.weight, self.bias, self.eps)
        return y, (x, mean, scale)

    def gradient(self, kept: Saved, dy: Tensor) -> Tensor:
        """The gradient to the input of `apply`."""
        if self.bias is None:
            return _rms_gradient(dy, kept, self.weight)
        x, mean, scale = kept
        dx: Tensor = torch.ops.aten.native_layer_norm_backward(
            dy, x, [x.shape[-1]], mean, scale, self.weight, self.bias, [True, False, False]
        )[0]
        return dx


@fused_on_gpu
def _rms(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Saved]:
    wide = torch.promote_types(x.dtype, torch.float32)
    length = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=wide)
    scale = length.square_().div_(x.shape[-1]).add_(eps).rsqrt_()
    if dual(x):  # torch takes no derivative of what is written to `out`
        return (x * scale).to(x.dtype) * weight, (x, scale)
    y = torch.mul(x, scale, out=torch.empty_like(x)).mul_(weight)
    return y, (x, scale)


@fused_on_gpu
def _rms_gradient(dy: Tensor, kept: Saved, weight: Tensor) -> Tensor:
    """``dx = s (g - x s^2 mean(g x))`` with ``g = dy w`` and ``s`` the inverse RMS of x."""
    x, scale = kept
    dx = dy * weight
    along = (dx * x).sum(-1, keepdim=True, dtype=scale.dtype).mul_(scale.square())
    along.div_(-x.shape[-1])
    dx.add_(torch.mul(x, along, out=torch.empty_like(x)))
    return torch.mul(dx, scale, out=dx)


def frozen_norm(norm: Norm, x: Tensor) -> Tensor:
    """The norm of ``[..., d]``, differentiable in x."""
    if not torch.is_grad_enabled():
        return norm.apply(x)[0]
    y: Tensor = _Frozen.apply(x, norm)  # type: ignore[no-untyped-call]
    return y


class _Frozen(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, norm: Norm) -> Tensor:
        y, kept = norm.apply(x)
        ctx.norm = norm
        ctx.save_for_backward(*kept)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None]:
        return ctx.norm.gradient(ctx.saved_tensors, dy.contiguous()), None
