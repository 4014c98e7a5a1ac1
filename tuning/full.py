"""Full-parameter training of chosen layers: the backbone's own tensors, under their own names."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from fedloom.backbones.base import Attachment, Linear
from fedloom.core.errors import ConfigError
from fedloom.core.layout import TensorSpec, Vector
from fedloom.tuning.base import Catalog, Frozen, Part
from fedloom.tuning.dense_change import DenseChange, NormChange
from fedloom.tuning.placing import chosen
from fedloom.tuning.store import Store

__all__ = ["Full", "FullPart"]


@dataclass(frozen=True, eq=False)
class FullPart:
    """One linear map or normalisation, trained itself.

    Attributes:
        linear: its place and widths.
        frozen: its tensors as they are, and where training starts.
        weight: whether its weight trains.
        bias: whether its bias trains.
    """

    linear: Linear
    frozen: Frozen
    weight: bool = True
    bias: bool = True
    before = False

    @property
    def module(self) -> str:
        """Module path."""
        return self.linear.name

    def _tensors(self) -> dict[str, Tensor]:
        found = {"weight": self.frozen.weight} if self.weight else {}
        if self.bias and self.frozen.bias is not None:
            found["bias"] = self.frozen.bias
        return found

    @property
    def specs(self) -> tuple[TensorSpec, ...]:
        """The weight and the bias that train, in transformers' names and shapes."""
        norm = self.frozen.eps is not None
        return tuple(
            TensorSpec(
                f"{self.linear.name}.{field}",
                tuple(tensor.shape),
                self.linear.block,
                frozenset({"full", "norm" if norm else field}),
            )
            for field, tensor in self._tensors().items()
        )

    def initial(self, seed: int) -> Mapping[str, NDArray[np.float32]]:
        """The backbone's own values; zeros where this side does not hold the block."""
        return {f"{self.linear.name}.{f}": _array(t) for f, t in self._tensors().items()}

    def is_identity(self, tensors: Mapping[str, Vector]) -> bool:
        """Whether all values are the backbone's."""
        return all(np.array_equal(tensors[name], t) for name, t in self.initial(0).items())

    def attach(self, store: Store) -> Attachment:
        """The change of the module."""
        names = {field: f"{self.linear.name}.{field}" for field in self._tensors()}
        weight, bias = names.get("weight"), names.get("bias")
        if self.frozen.eps is not None and weight is not None:
            return NormChange(store, weight=weight, bias=bias, frozen=self.frozen)
        return DenseChange(store, weight=weight, bias=bias, frozen=self.frozen)


def _array(tensor: Tensor) -> NDArray[np.float32]:
    if tensor.is_meta:
        return np.zeros(tuple(tensor.shape), dtype=np.float32)
    found: NDArray[np.float32] = tensor.detach().float().cpu().numpy()
    return found


def _norm(catalog: Catalog, norm: Linear) -> FullPart:
    frozen = catalog.frozen(norm.name)
    if frozen.eps is None:
        text = f"{norm.name} is neither a layer norm nor an RMS norm; set norms = false"
        raise ConfigError(f"adapter full: {text}")
    return FullPart(norm, frozen)


class Full:
    """Train chosen layers themselves: weights, biases and norms, embeddings never.

    Averaging changes is averaging weights. Each client takes five numbers of memory for each that
    it trains: name few layers, or few clients are trained at once.

    Args:
        layers: indices of transformer layers, negative from the top; empty for all.
        weights: train the weights of linear maps.
        biases: train their biases.
        norms: train weights and biases of normalisations.
    """

    affine = True

    def __init__(
        self,
        layers: tuple[int, ...] = (),
        weights: bool = True,
        biases: bool = True,
        norms: bool = True,
    ) -> None:
        self._layers, self._weights, self._biases, self._norms = layers, weights, biases, norms

    def parts(self, catalog: Catalog) -> Sequence[Part]:
        """One for every module with a tensor that trains, layer by layer.

        Raises:
            ConfigError: nothing trains, or a norm is of a kind whose gradient is not known.
        """
        blocks = {linear.block for linear in chosen(catalog, ("all-linear",), self._layers)}
        maps = [
            FullPart(x, catalog.frozen(x.name), self._weights, self._biases)
            for x in catalog.linears
            if x.block in blocks
        ]
        if self._norms:
            maps += [_norm(catalog, x) for x in catalog.norms if x.block in blocks]
        parts = [part for part in maps if part.specs]
        if not parts:
            raise ConfigError("adapter full: nothing trains; turn weights, biases or norms on")
        order = {block: i for i, block in enumerate(catalog.blocks)}
        return sorted(parts, key=lambda part: order[part.linear.block])

    def peft_config(self, catalog: Catalog) -> Mapping[str, object]:
        """PEFT has no such method."""
        return {}
