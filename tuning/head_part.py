"""A task head as a part of the model that trains. Nothing loads torch before it is attached."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fedloom.backbones.base import Attachment, Linear
from fedloom.core.layout import TensorSpec, Vector
from fedloom.core.seeds import stream

if TYPE_CHECKING:
    from fedloom.tuning.store import Store

__all__ = ["HeadPart"]


@dataclass(frozen=True)
class HeadPart:
    """A linear map trained in full: a task head.

    Attributes:
        linear: its place and widths.
        weight: where it starts, float32 ``[d_out, d_in]``; None for a new head.
        bias: where its bias starts, float32 ``[d_out]``; None for a new head.
        has_bias: whether there is a bias.
        init: ``zeros`` or ``normal`` (standard deviation 0.02), for a new head.
    """

    linear: Linear
    weight: NDArray[np.float32] | None = None
    bias: NDArray[np.float32] | None = None
    has_bias: bool = True
    init: str = "zeros"
    before = False

    @property
    def module(self) -> str:
        """Module path."""
        return self.linear.name

    @property
    def specs(self) -> tuple[TensorSpec, ...]:
        """The weight and, where there is one, the bias."""
        name, tags = self.linear.name, frozenset({"head"})
        shape = (self.linear.d_out, self.linear.d_in)
        weight = TensorSpec(f"{name}.weight", shape, self.linear.block, tags)
        bias = TensorSpec(f"{name}.bias", shape[:1], self.linear.block, tags)
        return (weight, bias) if self.has_bias else (weight,)

    def initial(self, seed: int) -> Mapping[str, NDArray[np.float32]]:
        """The checkpoint's head, or a new one."""
        start = {spec.name: np.zeros(spec.shape, dtype=np.float32) for spec in self.specs}
        name, *bias_name = start
        if self.weight is not None:
            start[name] = self.weight
        elif self.init == "normal":
            # Box-Muller from exact uniforms; libm may differ in the last bit between machines.
            n = math.prod(self.specs[0].shape)
            u = stream(seed, "initial", client=name).uniform(2 * n)
            normal = np.sqrt(-2 * np.log1p(-u[:n])) * np.cos(2 * np.pi * u[n:])
            start[name] = (0.02 * normal).astype(np.float32).reshape(self.specs[0].shape)
        if self.bias is not None and bias_name:
            start[bias_name[0]] = self.bias
        return start

    def is_identity(self, tensors: Mapping[str, Vector]) -> bool:
        """Never: a head always says something."""
        return False

    def attach(self, store: Store) -> Attachment:
        """The clients' own products."""
        from fedloom.tuning.attachments import Replacement

        names = [spec.name for spec in self.specs]
        return Replacement(store, weight=names[0], bias=names[1] if self.has_bias else None)
