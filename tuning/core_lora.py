"""LoRA whose factors stay and between which a small square matrix trains.

Fed-SB: Singhal, Ponkshe, Vartak, Varshney and Vepakomma, "Fed-SB: A Silver Bullet for Extreme
Communication Efficiency and Performance in (Private) Federated LoRA Fine-Tuning", 2025,
https://arxiv.org/abs/2502.15436: ``W + s B R A`` with B and A fixed and orthonormal, and R
``[r, r]`` the only thing that trains and travels. The mean of R is the mean of the products.

The paper takes B and A from the singular vectors of the first gradient, and R from its singular
values. No gradient is to be had here before the first round: B and A are the leading directions of
the frozen weight (LoRA-XS, Balazy et al., 2024), or random, and R begins at zero.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedloom.backbones.base import AddToInput, Attachment, Linear, Saved
from fedloom.core.errors import ConfigError, require
from fedloom.core.layout import FIXED, TensorSpec, Vector
from fedloom.core.seeds import stream
from fedloom.tuning.base import Catalog, Frozen, Part
from fedloom.tuning.lora import LORA_TARGETS
from fedloom.tuning.placing import chosen, targets_for
from fedloom.tuning.store import Store

__all__ = ["CoreLora", "CorePart", "CoreProduct"]

_TURNS = 4
"""Times that the directions are multiplied by the weight and back (subspace iteration)."""


class CoreProduct:
    """``y + s (x A^T) R^T B^T``.

    Args:
        store: holds A ``[k, r, d_in]``, R ``[k, r, r]`` and B ``[k, d_out, r]``.
        a: name of A.
        core: name of R.
        b: name of B.
        scaling: s.
    """

    def __init__(self, store: Store, *, a: str, core: str, b: str, scaling: float) -> None:
        self._store, self._a, self._core, self._b = store, a, core, b
        self._scaling = scaling

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Saved]:
        """Add the product to `y` in place."""
        low = torch.bmm(x, self._store.view(self._a).mT)
        inner = torch.bmm(low, self._store.view(self._core).mT)
        return y.baddbmm_(inner, self._store.view(self._b).mT, alpha=self._scaling), (low,)

    def backward(self, saved: Saved, dy: Tensor) -> tuple[Tensor, AddToInput]:
        """``dR = s (dy B)^T (x A^T)``; ``dx += s (dy B) R A``."""
        (low,) = saved
        inner = torch.bmm(dy, self._store.view(self._b)).mul_(self._scaling)
        grad = self._store.grad_view(self._core)
        if grad is not None:
            grad.add_(torch.bmm(inner.mT, low))
        dlow = torch.bmm(inner, self._store.view(self._core))
        a = self._store.view(self._a)
        return dy, lambda dx: dx.baddbmm_(dlow, a)


@dataclass(frozen=True)
class CorePart:
    """A, R and B of one linear map.

    Attributes:
        linear: the frozen map.
        rank: r.
        scaling: s.
        frozen: its tensors; None where A and B are random.
    """

    linear: Linear
    rank: int
    scaling: float
    frozen: Frozen | None = field(default=None, compare=False)
    before = False

    @property
    def module(self) -> str:
        """Module path of the linear map."""
        return self.linear.name

    @property
    def specs(self) -> tuple[TensorSpec, ...]:
        """A ``[r, d_in]`` and B ``[d_out, r]``, which stay, and R ``[r, r]``."""
        name, block, r = self.linear.name, self.linear.block, self.rank
        fixed = frozenset({FIXED})
        return (
            TensorSpec(f"{name}.lora_A.weight", (r, self.linear.d_in), block, fixed),
            TensorSpec(f"{name}.lora_core", (r, r), block, frozenset({"lora", "core"})),
            TensorSpec(f"{name}.lora_B.weight", (self.linear.d_out, r), block, fixed),
        )

    def initial(self, seed: int) -> Mapping[str, NDArray[np.float32]]:
        """A with orthonormal rows, B with orthonormal columns, R zero.

        They are computed in float64 and may differ between processors in the last bit.
        """
        a, core, b = self.specs
        right = _orthonormal(_random(seed, a.name, (self.linear.d_in, self.rank)))
        left = _orthonormal(_random(seed, b.name, (self.linear.d_out, self.rank)))
        if self.frozen is not None:
            weight = self.frozen.weight.detach().double().cpu().numpy()
            weight = weight.T if self.frozen.transposed else weight
            for _ in range(_TURNS):
                left = _orthonormal(weight @ right)
                right = _orthonormal(weight.T @ left)
        start = {a.name: right.T, core.name: np.zeros(core.shape), b.name: left}
        return {name: np.ascontiguousarray(t, dtype=np.float32) for name, t in start.items()}

    def is_identity(self, tensors: Mapping[str, Vector]) -> bool:
        """Whether R is zero."""
        return not tensors[self.specs[1].name].any()

    def attach(self, store: Store) -> Attachment:
        """The product."""
        a, core, b = (spec.name for spec in self.specs)
        return CoreProduct(store, a=a, core=core, b=b, scaling=self.scaling)


class CoreLora:
    """LoRA of which only a square matrix between the factors trains and travels (Fed-SB).

    Args:
        rank: r.
        alpha: numerator of the scaling alpha / r (0: the rank, so that it is 1).
        targets: module names, as PEFT's ``target_modules``; ``all-linear`` for every one.
        layers: indices of transformer layers, negative from the top; empty for all.
        start: ``weights``: A and B are the leading directions of the frozen weight; or ``random``.
    """

    affine = True

    def __init__(
        self,
        rank: int = 16,
        alpha: float = 0.0,
        targets: tuple[str, ...] = (),
        layers: tuple[int, ...] = (),
        start: str = "weights",
    ) -> None:
        require(rank >= 1, "adapter.rank", rank, "1 or more")
        require(0 <= alpha < math.inf, "adapter.alpha", alpha, "0 (the rank) or more")
        require(start in ("weights", "random"), "adapter.start", start, "weights or random")
        self._rank, self._alpha = rank, alpha or float(rank)
        self._targets, self._layers, self._weights = targets, layers, start == "weights"

    def parts(self, catalog: Catalog) -> Sequence[Part]:
        """A, R and B for every target.

        Raises:
            ConfigError: a target names nothing, is narrower than the rank, or its weight is not
                here to start from.
        """
        return [self._part(catalog, linear) for linear in self._chosen(catalog)]

    def _part(self, catalog: Catalog, linear: Linear) -> CorePart:
        most = min(linear.d_in, linear.d_out)
        text = f"1 to {most}, the width of {linear.name}"
        require(self._rank <= most, "adapter.rank", self._rank, text)
        frozen = catalog.frozen(linear.name) if self._weights else None
        if frozen is not None and frozen.weight.is_meta:
            text = f"the weight of {linear.name} is not held here; start = 'random' needs none"
            raise ConfigError(f"adapter.start = 'weights': {text}")
        return CorePart(linear, self._rank, self._alpha / self._rank, frozen)

    def _chosen(self, catalog: Catalog) -> list[Linear]:
        return chosen(catalog, targets_for(catalog, self._targets, LORA_TARGETS), self._layers)

    def peft_config(self, catalog: Catalog) -> Mapping[str, object]:
        """``LoraConfig``: with ``B R`` in place of B it is LoRA."""
        return {
            "peft_type": "LORA",
            "r": self._rank,
            "lora_alpha": self._alpha,
            "lora_dropout": 0.0,
            "bias": "none",
            "fan_in_fan_out": catalog.family == "gpt2",
            "target_modules": [linear.name for linear in self._chosen(catalog)],
        }

    @staticmethod
    def merged(tensors: Mapping[str, Vector]) -> dict[str, Vector]:
        """The tensors as PEFT knows them: ``B R`` and A."""
        found = dict(tensors)
        for name in tensors:
            module, core, _ = name.partition(".lora_core")
            if core:
                b = f"{module}.lora_B.weight"
                found[b] = tensors[b] @ found.pop(name)
        return found


def _random(seed: int, name: str, shape: tuple[int, int]) -> NDArray[np.float64]:
    uniform = stream(seed, "initial", client=name).uniform(math.prod(shape))
    return (2 * uniform - 1).reshape(shape)


def _orthonormal(columns: NDArray[np.float64]) -> NDArray[np.float64]:
    """Orthonormal columns that span the same; each points along what it was made of."""
    q, r = np.linalg.qr(columns)
    made: NDArray[np.float64] = q * np.where(np.diag(r) < 0, -1.0, 1.0)
    return made
