"""One frozen transformer block as one autograd function.

The weights are constant, so no graph is built inside the block and no weight gradient is computed;
what is kept for the backward pass is what the input gradient needs. Gradients of whatever is
attached are written by the attachments.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from fedloom.backbones.attention import Attention, AttentionTape
from fedloom.backbones.base import Sites
from fedloom.backbones.frame import Frame
from fedloom.backbones.mlp import Mlp, MlpTape
from fedloom.backbones.norm import Norm, NormTape
from fedloom.backbones.product import Product
from fedloom.core.errors import ModelError

__all__ = ["Block", "run_block"]


@dataclass(frozen=True)
class _Tape:
    attention: AttentionTape
    norm1: NormTape
    mlp: MlpTape
    norm2: NormTape


@dataclass(frozen=True)
class Block:
    """Attention and MLP, each with a norm and a residual sum.

    Attributes:
        attention: the first half.
        norm1: its norm.
        mlp: the second half.
        norm2: its norm.
        post_norm: ``norm(x + f(x))`` as in BERT; else ``x + f(norm(x))``.
    """

    attention: Attention
    norm1: Norm
    mlp: Mlp
    norm2: Norm
    post_norm: bool

    @property
    def products(self) -> tuple[Product, ...]:
        """The frozen products in the order in which they run."""
        return (self.attention.qkv, self.attention.out, self.mlp.up, self.mlp.down)

    def attached(self, sites: Sites) -> bool:
        """Whether a site is attached anywhere inside."""
        norms = self.norm1.name in sites or self.norm2.name in sites
        return norms or self.attention.attached(sites) or self.mlp.attached(sites)

    def forward(self, x: Tensor, frame: Frame, sites: Sites) -> tuple[Tensor, _Tape]:
        """Map ``[k * L, d]`` to ``[k * L, d]``, or ``[k * b, d]`` where only some are read."""
        k = frame.clients
        stream = x if frame.read is None else x[frame.read]
        if self.post_norm:
            y, attention = self.attention.forward(x, frame, sites)
            middle, norm1 = self.norm1.forward(y.add_(stream), k, sites)
            z, mlp = self.mlp.forward(middle, k, sites)
            out, norm2 = self.norm2.forward(z.add_(middle), k, sites)
            return out, _Tape(attention, norm1, mlp, norm2)
        normed, norm1 = self.norm1.forward(x, k, sites)
        middle, attention = self.attention.forward(normed, frame, sites)
        middle.add_(stream)
        normed, norm2 = self.norm2.forward(middle, k, sites)
        out, mlp = self.mlp.forward(normed, k, sites)
        return out.add_(middle), _Tape(attention, norm1, mlp, norm2)

    def infer(self, x: Tensor, frame: Frame, sites: Sites) -> Tensor:
        """What `forward` gives, each half's memory let go of before the next is run."""
        k = frame.clients
        stream = x if frame.read is None else x[frame.read]
        if self.post_norm:
            y = self.attention.forward(x, frame, sites)[0]
            middle = self.norm1.forward(y.add_(stream), k, sites)[0]
            z = self.mlp.forward(middle, k, sites)[0]
            return self.norm2.forward(z.add_(middle), k, sites)[0]
        normed = self.norm1.forward(x, k, sites)[0]
        middle = self.attention.forward(normed, frame, sites)[0]
        normed = self.norm2.forward(middle.add_(stream), k, sites)[0]
        return self.mlp.forward(normed, k, sites)[0].add_(middle)

    def backward(
        self, tape: _Tape, dy: Tensor, frame: Frame, sites: Sites, *, need_dx: bool
    ) -> Tensor | None:
        """The gradient to the input ``[k * L, d]``, or None where not wanted; `dy` is kept."""
        if self.post_norm:
            return self._post_backward(tape, dy, frame, sites, need_dx)
        return self._pre_backward(tape, dy, frame, sites, need_dx)

    def _post_backward(
        self, tape: _Tape, dy: Tensor, frame: Frame, sites: Sites, need_dx: bool
    ) -> Tensor | None:
        inside = need_dx or self.attention.attached(sites)
        first = inside or self.norm1.name in sites
        dz = self.norm2.backward(tape.norm2, dy, need_dx=first or self.mlp.attached(sites))
        if dz is None:
            return None
        d_middle = self.mlp.backward(tape.mlp, dz, need_dx=first)
        if d_middle is None:
            return None
        d_sum = self.norm1.backward(tape.norm1, d_middle.add_(dz), need_dx=inside)
        if d_sum is None:
            return None
        dx = self.attention.backward(tape.attention, d_sum, frame, need_dx=need_dx)
        return None if dx is None else _add_stream(dx, d_sum, frame)

    def _pre_backward(
        self, tape: _Tape, dy: Tensor, frame: Frame, sites: Sites, need_dx: bool
    ) -> Tensor | None:
        outer = need_dx or self.norm1.name in sites
        inside = outer or self.attention.attached(sites)
        second = inside or self.norm2.name in sites
        d_normed = self.mlp.backward(tape.mlp, dy, need_dx=second)
        if d_normed is None:
            return None
        d_middle = self.norm2.backward(tape.norm2, d_normed, need_dx=inside)
        if d_middle is None:
            return None
        d_middle.add_(dy)
        d_normed = self.attention.backward(tape.attention, d_middle, frame, need_dx=outer)
        if d_normed is None:
            return None
        dx = self.norm1.backward(tape.norm1, d_normed, need_dx=need_dx)
        return None if dx is None else _add_stream(dx, d_middle, frame)


def _add_stream(dx: Tensor, d_stream: Tensor, frame: Frame) -> Tensor:
    if frame.read is None:
        return dx.add_(d_stream)
    return dx.index_add_(0, frame.read, d_stream)


@dataclass(frozen=True)
class _Way:
    """A block, what it runs on beside hidden states, and whether it runs again on the way back."""

    block: Block
    frame: Frame
    sites: Sites
    recompute: bool


class _Run(torch.autograd.Function):
    """A block between hidden states; the anchor makes autograd call `backward` in any case."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, anchor: Tensor, way: _Way) -> Tensor:
        flat = hidden.flatten(0, 1)
        kept: Tensor | _Tape = flat
        if way.recompute:
            out = way.block.infer(flat, way.frame, way.sites)
        else:
            out, kept = way.block.forward(flat, way.frame, way.sites)
        ctx.shape, ctx.rest = hidden.shape, (way, kept)
        return out.view(way.frame.clients, -1, hidden.shape[-1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, None, None]:
        if ctx.rest is None:
            raise ModelError("fused block: second backward pass; the first freed the activations")
        way, kept = ctx.rest
        ctx.rest = None  # frees the activations now, not when the graph goes
        tape = way.block.forward(kept, way.frame, way.sites)[1] if way.recompute else kept
        flat, need_dx = dy.contiguous().flatten(0, 1), ctx.needs_input_grad[0]
        dx = way.block.backward(tape, flat, way.frame, way.sites, need_dx=need_dx)
        return (None if dx is None else dx.view(ctx.shape)), None, None


def run_block(
    block: Block, hidden: Tensor, frame: Frame, sites: Sites, *, recompute: bool = False
) -> Tensor:
    """Run one block on ``[k, L, d]``.

    Nothing is kept for a backward pass where gradients are off, or where neither the hidden states
    need one nor anything is attached.

    Args:
        block: the block.
        hidden: ``[k, L, d]``; not written to.
        frame: where tokens lie.
        sites: what is attached, and does not change before the backward pass.
        recompute: keep `hidden` alone and run the block again in the backward pass (Chen et al.,
            "Training Deep Nets with Sublinear Memory Cost", 2016, section 4): the same bits, for
            the time of one more forward pass.
    """
    if torch.is_grad_enabled() and (hidden.requires_grad or block.attached(sites)):
        anchor = torch.empty((), device=hidden.device, requires_grad=True)
        way = _Way(block, frame, sites, recompute)
        out: Tensor = _Run.apply(hidden, anchor, way)  # type: ignore[no-untyped-call]
        return out
    with torch.no_grad():
        flat = block.infer(hidden.flatten(0, 1), frame, sites)
    return flat.view(frame.clients, -1, hidden.shape[-1])
