"""What the server has beside LoRA: a product of low rank that no client trains and all clients get.

Exact aggregation of LoRA leaves a residual that two factors of rank r cannot hold. Added to frozen
weights that are stored in fewer bits it would be rounded away; here it stays in float, beside them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fedloom.backbones.base import Attachment, Linear
from fedloom.core.layout import SIDE, TensorSpec, Vector

if TYPE_CHECKING:
    from fedloom.tuning.store import Store

__all__ = ["SidePart", "with_sides"]


@dataclass(frozen=True)
class SidePart:
    """``y + s (x side_A^T) side_B^T`` at one linear map; the clients of a cohort share it.

    Attributes:
        linear: the frozen map.
        rank: R.
        scaling: s, that of the pair beside it.
    """

    linear: Linear
    rank: int
    scaling: float
    before = False

    @property
    def module(self) -> str:
        """Module path of the linear map."""
        return self.linear.name

    @property
    def specs(self) -> tuple[TensorSpec, ...]:
        """``side_A [R, d_in]`` and ``side_B [d_out, R]``."""
        name, block, tags = self.linear.name, self.linear.block, frozenset({SIDE})
        return (
            TensorSpec(f"{name}.side_A", (self.rank, self.linear.d_in), block, tags),
            TensorSpec(f"{name}.side_B", (self.linear.d_out, self.rank), block, tags),
        )

    def initial(self, seed: int) -> dict[str, NDArray[np.float32]]:
        """Zeros."""
        return {spec.name: np.zeros(spec.shape, dtype=np.float32) for spec in self.specs}

    def is_identity(self, tensors: Mapping[str, Vector]) -> bool:
        """Whether ``side_B`` is zero."""
        return not tensors[self.specs[1].name].any()

    def attach(self, store: Store) -> Attachment:
        """The product, in which nothing trains."""
        from fedloom.tuning.attachments import LowRank

        a, b = self.specs
        return LowRank(store, a=a.name, b=b.name, scaling=self.scaling)


def with_sides(tensors: Mapping[str, Vector]) -> dict[str, Vector]:
    """Tensors of a model with each pair and what is beside it as one pair of rank r + R."""
    found = dict(tensors)
    for name in tensors:
        module, dot, which = name.rpartition(".side_")
        if dot:
            own = f"{module}.lora_{which}.weight"
            found[own] = np.concatenate((tensors[own], found.pop(name)), axis="AB".index(which))
    return found
