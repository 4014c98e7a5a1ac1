"""PEQA: of weights that are stored in fewer bits, the scales train and nothing else.

Kim et al., "Memory-Efficient Fine-Tuning of Compressed Large Language Models via sub-4-bit Integer
Quantization", NeurIPS 2023. What was trained is merged by adding it to the scales: the codes stay.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from fedloom.backbones.base import Attachment, Linear
from fedloom.backbones.schemes import Packed
from fedloom.core.errors import ConfigError
from fedloom.core.layout import TensorSpec, Vector
from fedloom.tuning.base import Catalog, Part
from fedloom.tuning.placing import chosen
from fedloom.tuning.scale_change import GroupScales, RowScales
from fedloom.tuning.store import Store

__all__ = ["Peqa", "PeqaPart", "stored_of"]


@dataclass(frozen=True, eq=False)
class PeqaPart:
    """The changes of the scales of one linear map.

    Attributes:
        linear: its place and widths.
        packed: its weight.
        bias: its frozen bias, where rows have one scale each; None where there is none.
    """

    linear: Linear
    packed: Packed
    bias: Tensor | None
    before = False

    @property
    def module(self) -> str:
        """Module path."""
        return self.linear.name

    @property
    def specs(self) -> tuple[TensorSpec, ...]:
        """What is added to the scales: ``[d_out]``, or ``[d_out, d_in / group]``."""
        name, shape = f"{self.linear.name}.scale", tuple(self.packed.scale.shape)
        return (TensorSpec(name, shape, self.linear.block, frozenset({"peqa"})),)

    def initial(self, seed: int) -> Mapping[str, NDArray[np.float32]]:
        """Zeros."""
        (spec,) = self.specs
        return {spec.name: np.zeros(spec.shape, dtype=np.float32)}

    def is_identity(self, tensors: Mapping[str, Vector]) -> bool:
        """Whether all scales are those that are stored."""
        return not tensors[self.specs[0].name].any()

    def attach(self, store: Store) -> Attachment:
        """The change of the products."""
        name = self.specs[0].name
        if self.packed.scheme.group:
            return GroupScales(store, name=name, packed=self.packed)
        return RowScales(store, name=name, packed=self.packed, bias=self.bias)


class Peqa:
    """Train the scales of weights that are stored in fewer bits (PEQA, Kim et al., NeurIPS 2023).

    Averaging scales is averaging weights. The numbers are scales, of 1e-3 to 1e-2 in most models:
    they want a learning rate as small as full fine-tuning's, and AdamW.

    Args:
        targets: module names; ``all-linear`` (the paper's choice) for every one.
        layers: indices of transformer layers, negative from the top; empty for all.
    """

    affine = True
    fused_only = True

    def __init__(
        self, targets: tuple[str, ...] = ("all-linear",), layers: tuple[int, ...] = ()
    ) -> None:
        self._targets, self._layers = targets or ("all-linear",), layers

    def parts(self, catalog: Catalog) -> Sequence[Part]:
        """One for every target.

        Raises:
            ConfigError: a target's weight is not stored in fewer bits.
        """
        parts = []
        for linear in chosen(catalog, self._targets, self._layers):
            packed = stored_of(catalog, linear, "peqa")
            bias = None if packed.scheme.group else catalog.frozen(linear.name).bias
            parts.append(PeqaPart(linear, packed, bias))
        return parts

    def peft_config(self, catalog: Catalog) -> Mapping[str, object]:
        """PEFT has no such method."""
        return {}


def stored_of(catalog: Catalog, linear: Linear, adapter: str) -> Packed:
    """The weight of a map as it is stored.

    Raises:
        ConfigError: it is not stored in fewer bits, and the adapter of that name needs it.
    """
    packed = catalog.stored(linear.name)
    if packed is None:
        text = f"{linear.name} is not stored in fewer bits; set backbone.quantization"
        raise ConfigError(f"adapter {adapter}: {text}")
    return packed
