"""Adapters of low rank that a client has a part of: the first rows of every A and columns of B.

The others are zero where it starts, and stay exactly zero: the gradient of a column of B is zero
where that row of A is, and the other way round. What a client of rank r sends has no room for them.
All clients scale their products alike, as the adapter does, whatever their rank.
"""

from fedloom.core.layout import Layout, TensorSpec, Vector
from fedloom.core.types import Delta, Params

__all__ = ["cut_to", "largest_rank", "limited", "of_rank"]


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
