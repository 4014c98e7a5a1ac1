"""Several vectors of an update, summed as one: a refusal leaves none of them behind."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from fedloom.core.layout import Layout, Vector
from fedloom.core.types import ClientUpdate, Delta, Params
from fedloom.strategies.aggregate import FixedPointSum, WeightedMean

__all__ = ["means_of", "present", "summed"]

MEAN = WeightedMean()


def summed(
    total: FixedPointSum | None, update: ClientUpdate, layout: Layout, sides: Mapping[str, Vector]
) -> FixedPointSum:
    """The total with one more update, weighted by its examples.

    Args:
        total: so far.
        update: whose vectors they are.
        layout: of each of them.
        sides: float32 ``[layout.size]`` each, by name; the same names in every update.

    Raises:
        UpdateRefusedError: as `WeightedMean.add`.
    """
    whole = Delta(_beside(layout, tuple(sides)), np.concatenate(tuple(sides.values())))
    return MEAN.add(total, replace(update, delta=whole))


def present(layout: Layout, total: FixedPointSum, side: str) -> Layout:
    """The tensors of a layout that some update had."""
    return Layout(tuple(spec for spec in layout if f"{side}/{spec.name}" in total.layout))


def means_of(part: Layout, total: FixedPointSum, sides: Sequence[str]) -> list[Vector]:
    """The weighted mean of each vector for the tensors of `part`, float32 ``[part.size]``."""
    layout = _beside(part, sides)
    zeros = Params(layout, np.zeros(layout.size, dtype=np.float32))
    return list(MEAN.mean(zeros, total).vector.reshape(len(sides), part.size))


def _beside(layout: Layout, sides: Sequence[str]) -> Layout:
    """The tensors of a layout once for each side, under names of their own."""
    return Layout(
        tuple(replace(spec, name=f"{side}/{spec.name}") for side in sides for spec in layout)
    )
