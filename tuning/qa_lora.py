"""QA-LoRA: a low-rank update that sees the sums of its inputs over the groups of a stored weight.

Xu et al., "QA-LoRA: Quantization-Aware Low-Rank Adaptation of Large Language Models", ICLR 2024,
section 3.3. ``s B A`` is then one number for each group of a row: it merges into what is added to
the group's numbers, and the codes stay. A format without least values has no place for it; with
int4 codes q and scales c of `fedloom.backbones.schemes`, ``c q + s B A`` is the format uint4 with
the codes q + 8, the scales c and the least values ``s B A - 8 c``.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedloom.backbones.base import AddToInput, Attachment, Linear, Saved
from fedloom.core.errors import ConfigError, require
from fedloom.core.layout import TensorSpec, Vector
from fedloom.core.seeds import stream
from fedloom.tuning.base import Catalog, Part
from fedloom.tuning.peqa import stored_of
from fedloom.tuning.placing import chosen
from fedloom.tuning.store import Store

__all__ = ["GroupedLowRank", "QaLora", "QaLoraPart"]


class GroupedLowRank:
    """``y + s (p(x) A^T) B^T``, p the sums over groups of neighbouring inputs.

    Args:
        store: holds A ``[k, r, d_in / group]`` and B ``[k, d_out, r]``.
        a: name of A.
        b: name of B.
        scaling: s.
    """

    def __init__(self, store: Store, *, a: str, b: str, scaling: float) -> None:
        self._store, self._a, self._b, self._scaling = store, a, b, scaling

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Saved]:
        """Add the low-rank product to `y` in place."""
        a, b = self._store.view(self._a), self._store.view(self._b)
        pooled = x.unflatten(-1, (a.shape[-1], -1)).sum(-1)
        low = torch.bmm(pooled, a.mT)
        return y.baddbmm_(low, b.mT, alpha=self._scaling), (pooled, low)

    def backward(self, saved: Saved, dy: Tensor) -> tuple[Tensor, AddToInput]:
        """``dB = s dy^T low``, ``dA = s (dy B)^T p(x)``; every input of a group gets the same."""
        pooled, low = saved
        grad_a, grad_b = self._store.grad_view(self._a), self._store.grad_view(self._b)
        if grad_b is not None:
            grad_b.add_(torch.bmm(low.mT, dy).mT, alpha=self._scaling)
        dlow = torch.bmm(dy, self._store.view(self._b)).mul_(self._scaling)
        if grad_a is not None:
            grad_a.add_(torch.bmm(dlow.mT, pooled))
        share = torch.bmm(dlow, self._store.view(self._a))

        def add(dx: Tensor) -> Tensor:
            dx.unflatten(-1, (share.shape[-1], -1)).add_(share.unsqueeze(-1))
            return dx

        return dy, add


@dataclass(frozen=True)
class QaLoraPart:
    """A and B of one linear map.

    Attributes:
        linear: the frozen map.
        groups: of a row of its weight.
        rank: r.
        scaling: alpha / r.
    """

    linear: Linear
    groups: int
    rank: int
    scaling: float
    before = False

    @property
    def module(self) -> str:
        """Module path of the linear map."""
        return self.linear.name

    @property
    def specs(self) -> tuple[TensorSpec, ...]:
        """A ``[r, d_in / group]`` and B ``[d_out, r]``."""
        shapes = {"A": (self.rank, self.groups), "B": (self.linear.d_out, self.rank)}
        name, block = f"{self.linear.name}.qa_lora", self.linear.block
        return tuple(
            TensorSpec(f"{name}_{which}.weight", shape, block, frozenset({"lora", which}))
            for which, shape in shapes.items()
        )

    def initial(self, seed: int) -> Mapping[str, NDArray[np.float32]]:
        """A uniform in +-1/sqrt(d_in), so that the product starts as large as LoRA's; B zero."""
        a, b = self.specs
        numbers = 2 * stream(seed, "initial", client=a.name).uniform(a.size) - 1
        start = (numbers / math.sqrt(self.linear.d_in)).astype(np.float32).reshape(a.shape)
        return {a.name: start, b.name: np.zeros(b.shape, dtype=np.float32)}

    def is_identity(self, tensors: Mapping[str, Vector]) -> bool:
        """Whether B is zero."""
        return not tensors[self.specs[1].name].any()

    def attach(self, store: Store) -> Attachment:
        """The low-rank product."""
        a, b = self.specs
        return GroupedLowRank(store, a=a.name, b=b.name, scaling=self.scaling)


class QaLora:
    """LoRA that merges into a stored weight without new codes (QA-LoRA, Xu et al., ICLR 2024).

    Args:
        rank: r.
        alpha: numerator of the scaling (0: twice the rank).
        targets: module names; ``all-linear`` (the paper's choice) for every one.
        layers: indices of transformer layers, negative from the top; empty for all.
    """

    affine = False
    fused_only = True

    def __init__(
        self,
        rank: int = 8,
        alpha: float = 0.0,
        targets: tuple[str, ...] = ("all-linear",),
        layers: tuple[int, ...] = (),
    ) -> None:
        require(rank >= 1, "adapter.rank", rank, "1 or more")
        require(0 <= alpha < math.inf, "adapter.alpha", alpha, "0 (twice the rank) or more")
        self._rank, self._scaling = rank, (alpha or 2.0 * rank) / rank
        self._targets, self._layers = targets or ("all-linear",), layers

    def parts(self, catalog: Catalog) -> Sequence[Part]:
        """A and B for every target.

        Raises:
            ConfigError: a target's weight is not stored as integers with a scale for each group.
        """
        found = chosen(catalog, self._targets, self._layers)
        return [QaLoraPart(x, _groups(catalog, x), self._rank, self._scaling) for x in found]

    def peft_config(self, catalog: Catalog) -> Mapping[str, object]:
        """PEFT has no such method."""
        return {}


def _groups(catalog: Catalog, linear: Linear) -> int:
    scheme = stored_of(catalog, linear, "qa-lora").scheme
    if not scheme.group or scheme.kind == "nf4":
        text = f"{linear.name} is stored as {scheme.name}; it needs integers in groups, as int4"
        raise ConfigError(f"adapter qa-lora: {text}")
    return linear.d_in // scheme.group
