"""From the hidden states of tokens to one vector per example."""

from typing import Literal, TypeAlias

import torch
from torch import Tensor

from fedloom.backbones.base import Grid, Packing

__all__ = ["Pooling", "pool"]

Pooling: TypeAlias = Literal["first", "last", "mean"]


def pool(hidden: Tensor, packing: Packing, pooling: Pooling) -> Tensor:
    """One vector per example, differentiable in the hidden states.

    Args:
        hidden: ``[k, L, d]``.
        packing: where each example's tokens lie.
        pooling: the first or the last token of an example, or the mean over its tokens.

    Returns:
        ``[k, b, d]``, zeros where a client has fewer than b examples.
    """
    flat = hidden.flatten(0, 1)
    places = packing.clients * packing.examples
    pooled = flat.new_zeros(places, flat.shape[1])
    for grid in packing.grids:
        pooled = pooled.index_copy(0, grid.rows, _rows(flat, grid, pooling))
    return pooled.view(packing.clients, packing.examples, -1)


def _rows(flat: Tensor, grid: Grid, pooling: Pooling) -> Tensor:
    """One vector for each row of a grid, ``[R, d]``."""
    if pooling == "first":
        return flat[grid.index[:, 0]]
    if pooling == "last":
        if grid.mask is None:
            return flat[grid.index[:, -1]]
        last = grid.mask.sum(1, keepdim=True) - 1
        return flat[grid.index.gather(1, last)[:, 0]]
    tokens = flat[grid.index]
    if grid.mask is None:
        return tokens.mean(1, dtype=torch.float32).to(flat.dtype)
    kept = tokens * grid.mask[:, :, None].to(flat.dtype)
    sizes = grid.mask.sum(1, keepdim=True)
    return (kept.sum(1, dtype=torch.float32) / sizes).to(flat.dtype)
