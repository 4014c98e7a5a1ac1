"""How one version of the model becomes the next, as it can be told in few bytes and done again.

A round of clients that step along known directions needs no model to be sent: whoever holds the
version before it, and the round's integers, comes to the same bits.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from fedloom.core.errors import LayoutError
from fedloom.core.layout import Layout, Vector
from fedloom.core.replay import Entry, apply, replay
from fedloom.core.steps import FAMILIES, Directions
from fedloom.core.types import Delta, Params

__all__ = ["Advance", "Contribution", "Move"]


@dataclass(frozen=True)
class Contribution:
    """What moves a model along the directions of one client, or along those that all share.

    Attributes:
        owner: of the directions, as `Directions.owner` gives it.
        weight: how often the scalars count.
        scalars: int64 ``[n]``, direction by direction.
    """

    owner: int
    weight: int
    scalars: NDArray[np.int64]

    def __post_init__(self) -> None:
        if self.scalars.dtype != np.int64 or self.scalars.ndim != 1:
            got = f"{self.scalars.dtype} {list(self.scalars.shape)}"
            raise LayoutError(f"scalars: expected int64 [n], got {got}")


@dataclass(frozen=True)
class Move:
    """``worth * sum_c weight_c * sum_i scalars_c[i] z_c[i]`` over the tensors of a layout.

    Attributes:
        layout: the tensors that move.
        worth: what one step is worth, tensor by tensor, times the family's unit.
        directions: which directions.
        round: of the run; what the directions were drawn for.
        contributions: each owner once.
    """

    layout: Layout
    worth: tuple[float, ...]
    directions: Directions
    round: int
    contributions: tuple[Contribution, ...]

    def entries(self, seed: int) -> list[Entry]:
        """The integers by key, in the run with `seed`."""
        found: list[Entry] = []
        for part in self.contributions:
            found += self.directions.entries(
                part.scalars * part.weight, seed=seed, round=self.round, owner=part.owner
            )
        return found

    def vector(self, seed: int) -> Vector:
        """The move itself, float32 ``[layout.size]``, the same bits everywhere."""
        family = FAMILIES[self.directions.family]
        total = replay(self.entries(seed), self.layout.size, family=family)
        found = np.zeros(self.layout.size, dtype=np.float32)
        for spec, worth in zip(self.layout, self.worth, strict=True):
            span = self.layout.span(spec.name)
            found[span] = apply(found[span], total[span], worth * family.unit)
        return found


@dataclass(frozen=True)
class Advance:
    """What a round did to the model.

    Attributes:
        moves: along directions, in the order in which they are added.
        rest: what is added number by number, before them.
        notes: small facts of the round, for whoever reads it.
    """

    moves: tuple[Move, ...]
    rest: Delta
    notes: Mapping[str, float] = field(default_factory=dict)

    def apply(self, params: Params, seed: int) -> Params:
        """The next model of the run with `seed`; each sum is rounded on its own, in order.

        Raises:
            LayoutError: it moves what the model lacks.
        """
        vector = params.vector.copy()
        for here, there in params.layout.spans(self.rest.layout):
            vector[here] += self.rest.vector[there]
        for move in self.moves:
            step = move.vector(seed)
            for here, there in params.layout.spans(move.layout):
                vector[here] += step[there]
        return Params(params.layout, vector)
