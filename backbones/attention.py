"""The attention half of a transformer block, forward and backward."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from fedloom.backbones.ahead import Ahead, ahead_of, owners
from fedloom.backbones.base import Sites
from fedloom.backbones.frame import Frame, Slots
from fedloom.backbones.product import Product, ProductTape
from fedloom.backbones.rotary import rotate

__all__ = ["Attention", "AttentionTape"]


@dataclass(frozen=True)
class _Heads:
    """Queries, keys, values and probabilities of one grid.

    With G query heads to each of `kv` key heads: queries are ``[R * kv, G * queries, head_dim]``,
    keys and values ``[R * kv, T, head_dim]``, probabilities ``[R * kv, G * queries, T]``. T counts
    what stands ahead, too.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    probabilities: Tensor


@dataclass(frozen=True)
class AttentionTape:
    """What the backward pass needs: the tapes of the products and the heads of every grid."""

    qkv: tuple[ProductTape, ...]
    heads: tuple[_Heads, ...]
    out: ProductTape
    ahead: Ahead | None = None


@dataclass(frozen=True)
class Attention:
    """Multi-head attention (https://arxiv.org/abs/1706.03762) by explicit batched products.

    Explicit products: torch's fused attention has a backward pass that is five times slower in
    bfloat16 on CPUs, and at short lengths nothing is gained by not forming the scores: on an H100
    the flash kernels took 82 ms where these products and their copies take 63 (32 tokens).

    Attributes:
        qkv: queries, keys and values: three members, or one of all widths.
        out: the output projection.
        widths: of queries, keys and values.
        head_dim: width of one head.
        name: module path; a prefix is attached at ``NAME.prefix``.
    """

    qkv: Product
    out: Product
    widths: tuple[int, int, int]
    head_dim: int
    name: str = ""

    @cached_property
    def _apart(self) -> tuple[Product, Product]:
        """Queries alone, keys and values alone."""
        return self.qkv.part(0, 1), self.qkv.part(1, 3)

    def attached(self, sites: Sites) -> bool:
        """Whether a site is attached anywhere inside."""
        ahead = f"{self.name}.prefix" in sites
        return bool(ahead or self.qkv.attached(sites) or self.out.attached(sites))

    def forward(self, x: Tensor, frame: Frame, sites: Sites) -> tuple[Tensor, AttentionTape]:
        """Map ``[k * L, d]`` to the same, or to ``[k * b, d]`` where only some are read."""
        q, kv, tapes = self._project(x, frame, sites)
        site, width = f"{self.name}.prefix", self.widths[1]
        ahead = ahead_of(sites, site, q, frame, width=width, head_dim=self.head_dim)
        heads = tuple(self._heads(q, kv, frame, slots, ahead) for slots in frame.slots)
        mixed = x.new_empty(q.shape)
        grids = [self._mix(h, slots) for h, slots in zip(heads, frame.slots, strict=True)]
        put = frame.put_heads if frame.read is None else frame.put_read_heads
        put(grids, mixed)
        y, out = self.out.forward(mixed, frame.clients, sites)
        return y, AttentionTape(tapes, heads, out, ahead)

    def _mix(self, heads: _Heads, slots: Slots) -> Tensor:
        """The mixed values ``[R, heads, queries, head_dim]``."""
        shape = (slots.count, self.widths[0] // self.head_dim, -1, self.head_dim)
        return torch.bmm(heads.probabilities, heads.v).view(shape)

    def _project(
        self, x: Tensor, frame: Frame, sites: Sites
    ) -> tuple[Tensor, Tensor, tuple[ProductTape, ...]]:
        """Queries (of the tokens that are read), keys and values side by side, and the tapes."""
        if frame.read is None or len(self.qkv.members) == 1:
            qkv, tape = self.qkv.forward(x, frame.clients, sites)
            q, kv = qkv[:, : self.widths[0]], qkv[:, self.widths[0] :]
            return (q if frame.read is None else q[frame.read]), kv, (tape,)
        queries, others = self._apart
        q, q_tape = queries.forward(x[frame.read], frame.clients, sites)
        kv, kv_tape = others.forward(x, frame.clients, sites)
        return q, kv, (q_tape, kv_tape)

    def _heads(
        self, q: Tensor, kv: Tensor, frame: Frame, slots: Slots, ahead: Ahead | None
    ) -> _Heads:
        k, v = kv[:, : self.widths[1]], kv[:, self.widths[1] :]
        gather = frame.heads if frame.read is None else frame.read_heads
        queries = gather(q, slots, self.head_dim)
        keys, values = (frame.heads(part, slots, self.head_dim) for part in (k, v))
        if slots.queries is not None and slots.keys is not None:
            queries, keys = rotate(queries, slots.queries), rotate(keys, slots.keys)
        if ahead is not None:
            keys, values = ahead.before(keys, values, owners(frame, slots, q.device))
        groups = slots.count * keys.shape[1]
        shape = (groups, -1, self.head_dim)
        q3, k3, v3 = queries.view(shape), keys.view(shape), values.view(shape)
        scores = _scaled(q3, k3.transpose(1, 2), self.head_dim)
        if slots.bias is not None:
            own = scores.view(*queries.shape[:3], -1)[..., -slots.length :]
            own.add_(slots.bias)
        return _Heads(q3, k3, v3, torch.softmax(scores, -1))

    def backward(
        self, tape: AttentionTape, dy: Tensor, frame: Frame, *, need_dx: bool
    ) -> Tensor | None:
        """The gradient to the input ``[k * L, d]``, or None where not wanted; `dy` is kept."""
        deeper = need_dx or tape.ahead is not None or any(t.sites for t in tape.qkv)
        own = dy.clone() if tape.out.sites else dy
        d_mixed = self.out.backward(tape.out, own, need_dx=deeper)
        if d_mixed is None:
            return None
        d_qkv = dy.new_empty(frame.tokens, sum(self.widths))
        joined, d_kv = d_qkv[:, : self.widths[0]], d_qkv[:, self.widths[0] :]
        d_q = joined if frame.read is None else dy.new_empty(len(dy), self.widths[0])
        self._core_backward(tape, d_mixed, frame, (d_q, d_kv))
        if len(tape.qkv) == 2:
            return self._apart_backward(tape.qkv, d_q, d_kv, frame, need_dx)
        if frame.read is not None:
            joined.zero_().index_add_(0, frame.read, d_q)
        return self.qkv.backward(tape.qkv[0], d_qkv, need_dx=need_dx)

    def _apart_backward(
        self,
        tapes: Sequence[ProductTape],
        d_q: Tensor,
        d_kv: Tensor,
        frame: Frame,
        need_dx: bool,
    ) -> Tensor | None:
        queries, others = self._apart
        d_read = queries.backward(tapes[0], d_q, need_dx=need_dx)
        dx = others.backward(tapes[1], d_kv, need_dx=need_dx)
        if dx is None or d_read is None or frame.read is None:
            return None
        return dx.index_add_(0, frame.read, d_read)

    def _core_backward(
        self, tape: AttentionTape, d_mixed: Tensor, frame: Frame, into: tuple[Tensor, Tensor]
    ) -> None:
        """Write the gradients to queries, and to keys and values side by side."""
        ahead = None if tape.ahead is None else tape.ahead.blank()
        parts = [
            self._grid_backward(h, d_mixed, frame, slots, ahead)
            for h, slots in zip(tape.heads, frame.slots, strict=True)
        ]
        d_q, d_k, d_v = zip(*parts, strict=True)
        put = frame.put_heads if frame.read is None else frame.put_read_heads
        put(d_q, into[0])
        frame.put_heads(d_k, into[1][:, : self.widths[1]])
        frame.put_heads(d_v, into[1][:, self.widths[1] :])
        if tape.ahead is not None and ahead is not None:
            tape.ahead.backward(*ahead)

    def _grid_backward(
        self,
        heads: _Heads,
        d_mixed: Tensor,
        frame: Frame,
        slots: Slots,
        ahead: tuple[Tensor, Tensor] | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        gather = frame.heads if frame.read is None else frame.read_heads
        d_out = gather(d_mixed, slots, self.head_dim)
        if slots.keep is not None and frame.read is None:
            d_out.mul_(slots.keep)
        query_shape = d_out.shape
        d_out = d_out.view(heads.q.shape)
        probabilities = heads.probabilities
        d_v = torch.bmm(probabilities.transpose(1, 2), d_out)
        d_p = torch.bmm(d_out, heads.v.transpose(1, 2))
        d_s = torch._softmax_backward_data(d_p, probabilities, -1, d_p.dtype)
        d_q = _scaled(d_s, heads.k, self.head_dim).view(query_shape)
        d_k = _scaled(d_s.transpose(1, 2), heads.q, self.head_dim)
        key_shape = (slots.count, self.widths[1] // self.head_dim, -1, self.head_dim)
        d_k, d_v = d_k.view(key_shape), d_v.view(key_shape)
        if ahead is not None:
            owner, first = owners(frame, slots, d_k.device), ahead[0].shape[2]
            ahead[0].index_add_(0, owner, d_k[:, :, :first])
            ahead[1].index_add_(0, owner, d_v[:, :, :first])
            d_k, d_v = d_k[:, :, first:].contiguous(), d_v[:, :, first:].contiguous()
        if slots.queries is not None and slots.keys is not None:
            d_q, d_k = rotate(d_q, slots.queries, back=True), rotate(d_k, slots.keys, back=True)
        return d_q, d_k, d_v


def _scaled(a: Tensor, b: Tensor, head_dim: int) -> Tensor:
    """``a b / sqrt(head_dim)``, batched."""
    blank = a.new_empty(a.shape[0], a.shape[1], b.shape[2])
    return blank.baddbmm_(a, b, beta=0, alpha=head_dim**-0.5)
