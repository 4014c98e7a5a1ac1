"""The parts that adapters are made of: tensors, their start, and the attachment they become.

Tensors and starts are made without torch; only attaching loads it.
"""

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
    from torch import Tensor

    from fedloom.backbones.loftq import Pair
    from fedloom.tuning.store import Store

__all__ = ["BiasPart", "BottleneckPart", "Ia3Part", "LoraPart"]

Arrays = dict[str, NDArray[np.float32]]


def _uniform(seed: int, name: str, shape: tuple[int, ...], bound: float) -> NDArray[np.float32]:
    """Uniform in [-bound, bound), the same bits everywhere."""
    numbers = stream(seed, "initial", client=name).uniform(math.prod(shape))
    return ((2 * numbers - 1) * bound).astype(np.float32).reshape(shape)


def _zeros(spec: TensorSpec) -> NDArray[np.float32]:
    return np.zeros(spec.shape, dtype=np.float32)


@dataclass(frozen=True)
class LoraPart:
    """A and B of one linear map.

    Attributes:
        linear: the frozen map.
        rank: r.
        scaling: alpha / r, or alpha / sqrt(r) for rank-stabilised LoRA.
        start: A and B whose product is what the map begins with (LoftQ); None for a new LoRA.
    """

    linear: Linear
    rank: int
    scaling: float
    start: Pair | None = None
    before = False

    @property
    def module(self) -> str:
        """Module path of the linear map."""
        return self.linear.name

    @property
    def specs(self) -> tuple[TensorSpec, ...]:
        """A ``[r, d_in]`` and B ``[d_out, r]``."""
        name, block = self.linear.name, self.linear.block
        a = TensorSpec(
            f"{name}.lora_A.weight", (self.rank, self.linear.d_in), block, frozenset({"lora", "A"})
        )
        b = TensorSpec(
            f"{name}.lora_B.weight", (self.linear.d_out, self.rank), block, frozenset({"lora", "B"})
        )
        return (a, b)

    def initial(self, seed: int) -> Arrays:
        """A uniform in +-1/sqrt(d_in) (PEFT's Kaiming start with a = sqrt 5), B zero.

        Where there is a `start`, it is that.
        """
        a, b = self.specs
        if self.start is not None:
            first, second = (tensor.numpy() for tensor in self.start)
            return {a.name: first, b.name: second / np.float32(self.scaling)}
        bound = 1 / math.sqrt(self.linear.d_in)
        return {a.name: _uniform(seed, a.name, a.shape, bound), b.name: _zeros(b)}

    def is_identity(self, tensors: Mapping[str, Vector]) -> bool:
        """Whether B is zero."""
        return not tensors[self.specs[1].name].any()

    def attach(self, store: Store) -> Attachment:
        """The low-rank product."""
        from fedloom.tuning.attachments import LowRank

        a, b = self.specs
        return LowRank(store, a=a.name, b=b.name, scaling=self.scaling)


@dataclass(frozen=True)
class Ia3Part:
    """The factors of one module: on its output, or on its input for feed-forward modules."""

    linear: Linear
    before: bool

    @property
    def module(self) -> str:
        """Module path of the linear map."""
        return self.linear.name

    @property
    def specs(self) -> tuple[TensorSpec, ...]:
        """The factors, ``[d_out, 1]`` or ``[1, d_in]`` as PEFT stores them."""
        shape = (1, self.linear.d_in) if self.before else (self.linear.d_out, 1)
        name = f"{self.linear.name}.ia3_l"
        return (TensorSpec(name, shape, self.linear.block, frozenset({"ia3"})),)

    def initial(self, seed: int) -> Arrays:
        """Ones."""
        (spec,) = self.specs
        return {spec.name: np.ones(spec.shape, dtype=np.float32)}

    def is_identity(self, tensors: Mapping[str, Vector]) -> bool:
        """Whether every factor is one."""
        return bool((tensors[self.specs[0].name] == 1).all())

    def attach(self, store: Store) -> Attachment:
        """The scaling."""
        from fedloom.tuning.attachments import Scaling

        return Scaling(store, factor=self.specs[0].name)


@dataclass(frozen=True)
class BiasPart:
    """The bias of one linear map or normalisation, trained itself."""

    linear: Linear
    frozen: Tensor
    before = False

    @property
    def module(self) -> str:
        """Module path."""
        return self.linear.name

    @property
    def specs(self) -> tuple[TensorSpec, ...]:
        """The bias, ``[d_out]``."""
        name = f"{self.linear.name}.bias"
        return (TensorSpec(name, (self.linear.d_out,), self.linear.block, frozenset({"bias"})),)

    def initial(self, seed: int) -> Arrays:
        """The backbone's own bias."""
        bias = self.frozen.detach().float().cpu().numpy()
        return {self.specs[0].name: np.array(bias, dtype=np.float32)}

    def is_identity(self, tensors: Mapping[str, Vector]) -> bool:
        """Whether the bias is the backbone's."""
        name = self.specs[0].name
        return bool((tensors[name] == self.initial(0)[name]).all())

    def attach(self, store: Store) -> Attachment:
        """The change of the bias."""
        from fedloom.tuning.attachments import BiasChange

        return BiasChange(store, bias=self.specs[0].name, frozen=self.frozen.detach().float())


@dataclass(frozen=True)
class BottleneckPart:
    """A bottleneck adapter after one linear map, or several beside each other.

    Attributes:
        linear: the map that it follows.
        width: units of the bottleneck, or of each.
        units: how many there are.
    """

    linear: Linear
    width: int
    units: int = 1
    before = False

    @property
    def module(self) -> str:
        """Module path of the linear map that it follows."""
        return self.linear.name

    @property
    def names(self) -> tuple[str, ...]:
        """What the tensors of each bottleneck begin with; several are numbered."""
        base = f"{self.linear.name}.bottleneck"
        return (base,) if self.units == 1 else tuple(f"{base}.{i}" for i in range(self.units))

    @property
    def specs(self) -> tuple[TensorSpec, ...]:
        """``down.weight [r, d]``, ``down.bias [r]``, ``up.weight [d, r]``, ``up.bias [d]`` of each.

        Where there are several, those of the first are tagged ``unit.0``, and so on.
        """
        d, r, block = self.linear.d_out, self.width, self.linear.block
        shapes = {"down.weight": (r, d), "down.bias": (r,), "up.weight": (d, r), "up.bias": (d,)}
        own = [frozenset({"bottleneck", f"unit.{i}"}) for i in range(self.units)]
        tags = own if self.units > 1 else [frozenset({"bottleneck"})]
        return tuple(
            TensorSpec(f"{name}.{part}", shape, block, tag)
            for name, tag in zip(self.names, tags, strict=True)
            for part, shape in shapes.items()
        )

    def initial(self, seed: int) -> Arrays:
        """``down.weight`` uniform in +-1/sqrt(d), the rest zero: the identity."""
        bound = 1 / math.sqrt(self.linear.d_out)
        return {
            spec.name: _uniform(seed, spec.name, spec.shape, bound)
            if spec.name.endswith(".down.weight")
            else _zeros(spec)
            for spec in self.specs
        }

    def is_identity(self, tensors: Mapping[str, Vector]) -> bool:
        """Whether every up-projection is zero."""
        return not any(tensors[spec.name].any() for spec in self.specs if ".up." in spec.name)

    def attach(self, store: Store) -> Attachment:
        """The branch through those that train or change something."""
        from fedloom.tuning.attachments import BottleneckBranch

        ups = {name: [f"{name}.up.{kind}" for kind in ("weight", "bias")] for name in self.names}
        there = [name for name, up in ups.items() if any(_matters(store, one) for one in up)]
        return BottleneckBranch(store, names=there or self.names)


def _matters(store: Store, name: str) -> bool:
    """Whether a tensor trains or is not zero."""
    return store.grad_view(name) is not None or bool(store.view(name).any())
