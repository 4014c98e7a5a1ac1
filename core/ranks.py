"""Adapters of low rank that a client has a part of: the first rows of every A and columns of B.

The others are zero where it starts, and stay exactly zero: the gradient of a column of B is zero
where that row of A is, and the other way round. What a client of rank r sends has no room for them.
All clients scale their products alike, as the adapter does, whatever their rank.
"""

import numpy as np

from fedloom.core.layout import Layout, TensorSpec, Vector
from fedloom.core.types import Delta, Params

__all__ = ["RANK", "cut_to", "factor_pairs", "largest_rank", "limited", "of_rank", "widened"]

RANK = "rank"
"""Among the metrics of an update: what its client has come to, where it prunes its rank."""


def of_rank(layout: Layout, rank: int | None) -> Layout:
    """The tensors as a client of a rank sends them: A ``[r, d_in]``, B ``[d_out, r]``.

    Args:
        layout: of the whole adapter.
        rank: r; None for all of it. A pair of lower rank is as it is.
    """
    return layout if rank is None else Layout(tuple(_cut(spec, rank) for spec in layout))


def limited(params: Params, rank: int | None) -> Params:
    """Where a client of a rank starts: what lies beyond it is zero."""
    if rank is None:
        return params
    vector = params.vector.copy()
    for spec in params.layout:
        if (axis := _axis(spec)) is not None:
            beyond = (slice(None),) * axis + (slice(rank, None),)
            params.layout.view(vector, spec.name)[beyond] = 0.0
    return Params(params.layout, vector)


def cut_to(delta: Delta, rank: int | None) -> Delta:
    """A change number by number without what lies beyond a rank."""
    if rank is None:
        return delta
    part = of_rank(delta.layout, rank)
    return Delta(part, part.flatten(dict(_cut_tensors(delta.layout, delta.vector, part))))


def widened(part: Params, layout: Layout) -> Params:
    """Tensors as a client of a rank is sent them, with zeros for what they have no room for.

    Args:
        part: what came.
        layout: the same tensors of the whole adapter.
    """
    vector = np.zeros(layout.size, dtype=np.float32)
    for name, tensor in part.layout.unflatten(part.vector).items():
        layout.view(vector, name)[tuple(slice(n) for n in tensor.shape)] = tensor
    return Params(layout, vector)


def factor_pairs(layout: Layout) -> list[tuple[TensorSpec, TensorSpec]]:
    """A ``[r, d_in]`` and B ``[d_out, r]`` of each module of which clients may have a part."""
    found = {spec.name: spec for spec in layout if _axis(spec) is not None}
    pairs = ((spec, found.get(spec.name.replace("lora_A", "lora_B"))) for spec in found.values())
    return [(a, b) for a, b in pairs if b is not None and "A" in a.tags and "B" in b.tags]


def largest_rank(layout: Layout) -> int:
    """The rank of an adapter: that of its largest pair; 0 where it has none."""
    ranks = (spec.shape[axis] for spec in layout if (axis := _axis(spec)) is not None)
    return max(ranks, default=0)


def _axis(spec: TensorSpec) -> int | None:
    """Along which axis of a tensor its rank lies; None where it has none."""
    if "lora" not in spec.tags or not spec.trains:
        return None
    return next((axis for axis, tag in enumerate("AB") if tag in spec.tags), None)


def _cut(spec: TensorSpec, rank: int) -> TensorSpec:
    if (axis := _axis(spec)) is None or spec.shape[axis] <= rank:
        return spec
    shape = list(spec.shape)
    shape[axis] = rank
    return TensorSpec(spec.name, tuple(shape), spec.block, spec.tags)


def _cut_tensors(layout: Layout, vector: Vector, part: Layout) -> list[tuple[str, Vector]]:
    whole = layout.unflatten(vector)
    return [(s.name, whole[s.name][tuple(slice(n) for n in s.shape)]) for s in part]
