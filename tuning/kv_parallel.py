"""An adapter beside keys and values: FedPerfix's, on the tokens themselves.

Sun, Mendieta, Luo, Wu and Chen, "FedPerfix: Towards Partial Model Personalization of Vision
Transformers in Federated Learning", ICCV 2023. Keys and values of a block get
``s Up(tanh(Down(x)))`` added. The two maps up lie apart here, one for each module, so that they are
attached where keys and values are made; ``Down`` is one.
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
from fedloom.tuning.placing import chosen
from fedloom.tuning.store import Store

__all__ = ["KvBranch", "KvParallel", "KvPart"]

TARGETS = {
    "bert": ("key", "value"),
    "gpt2": ("c_attn",),
    "llama": ("k_proj", "v_proj"),
    "qwen2": ("k_proj", "v_proj"),
    "vit": ("k_proj", "v_proj"),
}
TAGS = frozenset({"kv", "personal"})


class KvBranch:
    """``y + s Up(tanh(Down(x)))`` in some columns of y.

    Args:
        store: holds ``DOWN.weight [k, r, d_in]``, ``DOWN.bias [k, r]``, ``UP.weight [k, w, r]`` and
            ``UP.bias [k, w]``.
        down: name of the map that keys and values share.
        up: name of this module's own.
        scale: s.
    """

    def __init__(self, store: Store, *, down: str, up: str, scale: float) -> None:
        self._store, self._down, self._up, self._scale = store, down, up, scale

    def _get(self, name: str) -> Tensor:
        return self._store.view(name)

    def _add(self, name: str, value: Tensor) -> None:
        grad = self._store.grad_view(name)
        if grad is not None:
            grad.add_(value)

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Saved]:
        """Add the branch to the last w columns of `y` in place."""
        bias = self._get(f"{self._down}.bias").unsqueeze(1)
        inner = torch.baddbmm(bias, x, self._get(f"{self._down}.weight").mT).tanh_()
        bias = self._get(f"{self._up}.bias").unsqueeze(1)
        out = torch.baddbmm(bias, inner, self._get(f"{self._up}.weight").mT)
        y[..., -out.shape[-1] :].add_(out, alpha=self._scale)
        return y, (x, inner)

    def backward(self, saved: Saved, dy: Tensor) -> tuple[Tensor, AddToInput]:
        """Gradients of the four tensors, and through the branch to the input."""
        x, inner = saved
        up = self._get(f"{self._up}.weight")
        dout = dy[..., -up.shape[1] :] * self._scale
        self._add(f"{self._up}.bias", dout.sum(1))
        self._add(f"{self._up}.weight", torch.bmm(dout.mT, inner))
        dinner = torch.bmm(dout, up).mul_(1 - inner.square())
        self._add(f"{self._down}.bias", dinner.sum(1))
        self._add(f"{self._down}.weight", torch.bmm(dinner.mT, x))
        down = self._get(f"{self._down}.weight")
        return dy, lambda dx: dx.baddbmm_(dinner, down)


@dataclass(frozen=True)
class KvPart:
    """The branch of one module: of the keys, the values, or both side by side.

    Attributes:
        linear: the module.
        name: of the branch of the whole block.
        mid: r, units between down and up.
        scale: s.
        width: columns that the branch adds to: the last of the module's.
        opens: whether the map down is among its tensors; else it reads that of another part.
    """

    linear: Linear
    name: str
    mid: int
    scale: float
    width: int
    opens: bool
    before = False

    @property
    def module(self) -> str:
        """Module path."""
        return self.linear.name

    @property
    def _up(self) -> str:
        return f"{self.name}.up.{self.linear.name.rpartition('.')[2]}"

    @property
    def specs(self) -> tuple[TensorSpec, ...]:
        """``down.weight [r, d]`` and its bias, where they are its own; ``up``'s, ``[w, r]``."""
        shapes: dict[str, tuple[int, ...]] = {}
        if self.opens:
            shapes[f"{self.name}.down.weight"] = (self.mid, self.linear.d_in)
            shapes[f"{self.name}.down.bias"] = (self.mid,)
        shapes[f"{self._up}.weight"] = (self.width, self.mid)
        shapes[f"{self._up}.bias"] = (self.width,)
        return tuple(TensorSpec(n, shape, self.linear.block, TAGS) for n, shape in shapes.items())

    def initial(self, seed: int) -> Mapping[str, NDArray[np.float32]]:
        """``down.weight`` uniform in +-1/sqrt(d), the rest zero: the identity."""
        start = {spec.name: np.zeros(spec.shape, dtype=np.float32) for spec in self.specs}
        if self.opens:
            first = self.specs[0]
            numbers = stream(seed, "initial", client=first.name).uniform(first.size)
            spread = (2 * numbers - 1) / math.sqrt(self.linear.d_in)
            start[first.name] = spread.astype(np.float32).reshape(first.shape)
        return start

    def is_identity(self, tensors: Mapping[str, Vector]) -> bool:
        """Whether the map up is zero."""
        return not any(tensors[f"{self._up}.{field}"].any() for field in ("weight", "bias"))

    def attach(self, store: Store) -> Attachment:
        """The branch."""
        return KvBranch(store, down=f"{self.name}.down", up=self._up, scale=self.scale)


class KvParallel:
    """An adapter beside keys and values, on the same tokens (FedPerfix, Sun et al., ICCV 2023).

    Args:
        mid: units in the middle.
        scale: what the branch is multiplied by.
        targets: the modules of keys and values, in this order; empty for the family's.
        layers: indices of transformer layers, negative from the top; empty for all.
    """

    affine = False

    def __init__(
        self,
        mid: int = 256,
        scale: float = 1.5,
        targets: tuple[str, ...] = (),
        layers: tuple[int, ...] = (),
    ) -> None:
        require(mid >= 1, "adapter.mid", mid, "1 or more")
        require(0 < scale < math.inf, "adapter.scale", scale, "above 0 and finite")
        self._mid, self._scale, self._targets, self._layers = mid, scale, targets, layers

    def parts(self, catalog: Catalog) -> Sequence[Part]:
        """One for each module of keys or values; those of a block share the map down.

        Raises:
            ConfigError: the family's modules are not known, or a target names nothing.
        """
        targets = self._targets or TARGETS.get(catalog.family, ())
        if not targets:
            text = f"no default for {catalog.family!r} models; name the modules of keys and values"
            raise ConfigError(f"adapter.targets: {text}")
        opened: set[str] = set()
        parts = []
        for linear in chosen(catalog, targets, self._layers):
            name = f"{linear.name.rpartition('.')[0]}.kv"
            # GPT-2 makes queries, keys and values by one map; its last two thirds are meant.
            width = linear.d_out * 2 // 3 if linear.name.endswith("c_attn") else linear.d_out
            opens = name not in opened
            parts.append(KvPart(linear, name, self._mid, self._scale, width, opens))
            opened.add(name)
        return parts

    def peft_config(self, catalog: Catalog) -> Mapping[str, object]:
        """PEFT has no such method."""
        return {}
