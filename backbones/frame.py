"""Between packed tokens and attention's grids: gather, scatter, masks and rotations."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fedloom.backbones.base import Grid, Packing
from fedloom.backbones.rotary import Rotation, rotation
from fedloom.backbones.shape import Shape

__all__ = ["Frame", "Slots", "frame"]


@dataclass(frozen=True)
class Slots:
    """One grid of R examples, T slots each, ready for attention.

    Attributes:
        count: R.
        length: T.
        index: int64 ``[R * T]`` into the tokens; None where the grid is the tokens in order.
        rows: int64 ``[R]``: which of the ``k * b`` examples each is; None where in order.
        bias: added to the scores ``[R, heads, queries, T]``, minus infinity where a query may not
            see a key; None where all see all.
        keep: ``[R, 1, T, 1]``, one where there is a token and else zero; None where all are.
        queries: rotation of the queries, or None.
        keys: rotation of the keys, or None.
    """

    count: int
    length: int
    index: Tensor | None
    rows: Tensor | None
    bias: Tensor | None
    keep: Tensor | None
    queries: Rotation | None
    keys: Rotation | None


@dataclass(frozen=True)
class Frame:
    """A packing as the blocks use it, prepared once for all of them.

    Attributes:
        clients: k.
        tokens: k * L.
        slots: the grids.
        back: int64 ``[k * L]`` into the slots of all grids; None where they are in order.
        read: int64 ``[k * b]``: the tokens whose output is wanted; None where all are.
        examples: b.
        rope_theta: base of the rotary positions; None without.
    """

    clients: int
    tokens: int
    slots: tuple[Slots, ...]
    back: Tensor | None
    read: Tensor | None
    examples: int
    rope_theta: float | None

    def heads(self, tokens: Tensor, slots: Slots, head_dim: int) -> Tensor:
        """Gather ``[k * L, heads * head_dim]`` into ``[R, heads, T, head_dim]``."""
        if slots.index is not None:
            tokens = tokens.index_select(0, slots.index)
        grid = tokens.view(slots.count, slots.length, -1, head_dim)
        return grid.transpose(1, 2).contiguous()

    def read_heads(self, queries: Tensor, slots: Slots, head_dim: int) -> Tensor:
        """Gather ``[k * b, heads * head_dim]`` into ``[R, heads, 1, head_dim]``."""
        if slots.rows is not None:
            queries = queries.index_select(0, slots.rows)
        return queries.reshape(slots.count, -1, 1, head_dim)

    def put_heads(self, grids: Sequence[Tensor], tokens: Tensor) -> None:
        """Scatter ``[R, heads, T, head_dim]`` of every grid into ``[k * L, heads * head_dim]``.

        Tokens that are padding get zeros.
        """
        if self.back is None:
            shape = grids[0].transpose(1, 2).shape
            tokens.view(shape).copy_(grids[0].transpose(1, 2))
            return
        rows = [grid.transpose(1, 2).reshape(-1, tokens.shape[1]) for grid in grids]
        laid = torch.cat([*rows, tokens.new_zeros(1, tokens.shape[1])])
        tokens.copy_(laid.index_select(0, self.back))

    def put_read_heads(self, grids: Sequence[Tensor], queries: Tensor) -> None:
        """Scatter ``[R, heads, 1, head_dim]`` of every grid into ``[k * b, heads * head_dim]``."""
        if self.back is None:
            queries.copy_(grids[0].flatten(1))
            return
        queries.zero_()
        for slots, grid in zip(self.slots, grids, strict=True):
            rows = torch.arange(len(grid), device=grid.device) if slots.rows is None else slots.rows
            queries.index_copy_(0, rows, grid.flatten(1))


def frame(packing: Packing, shape: Shape, dtype: torch.dtype, *, trim: bool) -> Frame:
    """Prepare a packing for the blocks of a backbone.

    Args:
        packing: where the tokens lie; with a `read` where `trim` is set.
        shape: of the backbone.
        dtype: of the hidden states.
        trim: only the tokens that are read are wanted from the block.
    """
    read = packing.read.flatten() if trim and packing.read is not None else None
    slots = tuple(_slots(grid, packing, shape, dtype, read) for grid in packing.grids)
    back = None if packing.regular else packing.back
    return Frame(
        packing.clients,
        packing.clients * packing.length,
        slots,
        back,
        read,
        packing.examples,
        shape.rope_theta,
    )


def _slots(
    grid: Grid, packing: Packing, shape: Shape, dtype: torch.dtype, read: Tensor | None
) -> Slots:
    count, length = grid.index.shape
    keep = None
    if grid.mask is not None:
        keep = grid.mask.view(count, 1, length, 1).to(dtype)
    at = None if read is None else packing.positions.flatten()[read][grid.rows]
    keys = queries = None
    if shape.rope_theta is not None:
        steps = torch.arange(length, device=grid.index.device)
        keys = rotation(steps, shape.rope_theta, shape.head_dim, dtype)
        queries = keys
        if at is not None:
            queries = rotation(at.view(-1, 1, 1), shape.rope_theta, shape.head_dim, dtype)
    return Slots(
        count=count,
        length=length,
        index=None if packing.regular else grid.index.flatten(),
        rows=None if packing.regular else grid.rows,
        bias=_bias(grid, shape.causal, dtype, at),
        keep=keep,
        queries=queries,
        keys=keys,
    )


def _bias(grid: Grid, causal: bool, dtype: torch.dtype, at: Tensor | None) -> Tensor | None:
    """Minus infinity where a query may not see a key.

    Padding ends a row, so that the causal mask hides it from every token.
    """
    steps = torch.arange(grid.index.shape[1], device=grid.index.device)
    if causal:
        last = steps.view(-1, 1) if at is None else at.view(-1, 1, 1, 1)
        hidden = steps > last
    elif grid.mask is not None:
        hidden = ~grid.mask[:, None, None, :]
    else:
        return None
    return torch.zeros(hidden.shape, dtype=dtype, device=steps.device).masked_fill_(
        hidden, -torch.inf
    )
