"""How what each adapter trains of a linear map goes into the map's matrix."""

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor

from fedloom.backbones.formats import Scheme
from fedloom.backbones.schemes import Packed, pack
from fedloom.backbones.shifted import raised, raised_scheme, rescaled, rescaled_scheme
from fedloom.core.errors import ConfigError
from fedloom.core.layout import Vector
from fedloom.tuning.base import Part
from fedloom.tuning.core_lora import CorePart
from fedloom.tuning.parts import LoraPart
from fedloom.tuning.peqa import PeqaPart
from fedloom.tuning.qa_lora import QaLoraPart

__all__ = ["Merger", "merger_of"]


class Merger(Protocol):
    """One way of merging.

    Attributes:
        floats: stored matrices, those of embeddings too, become float32 numbers.
    """

    floats: bool

    def numbers(self, part: Part, tensors: Mapping[str, Vector]) -> Tensor:
        """What a part adds, float32: in the shape that the matrix takes it in."""
        ...

    def dense(self, numbers: Tensor, packed: Packed | None) -> Tensor:
        """That, as a change of the matrix ``[d_out, d_in]``."""
        ...

    def scheme(self, scheme: Scheme) -> Scheme:
        """What the format of stored matrices of layers becomes.

        Raises:
            ConfigError: matrices in that format do not take it.
        """
        ...

    def put(self, packed: Packed, numbers: Tensor | None) -> Packed | Tensor:
        """The stored matrix with these numbers in it; None for none."""
        ...


def merger_of(part: Part, *, stored: bool, requantize: bool) -> Merger:
    """How a part merges.

    Args:
        part: of the adapter.
        stored: whether the backbone is stored in fewer bits.
        requantize: whether LoRA over a stored backbone is rounded to its format again.

    Raises:
        ConfigError: it does not merge, or `requantize` is not for it.
    """
    if isinstance(part, LoraPart | CorePart) and requantize and not stored:
        raise ConfigError("--requantize: the backbone is not stored in fewer bits")
    if isinstance(part, LoraPart | CorePart):
        return _Added(floats=not requantize)
    if requantize:
        raise ConfigError("--requantize: only LoRA needs it; nothing else is rounded in merging")
    if isinstance(part, PeqaPart):
        return _Scales()
    if isinstance(part, QaLoraPart):
        return _Groups()
    text = "it does not merge into matrices; what lora, peqa and qa-lora train does"
    raise ConfigError(f"{part.specs[0].name}: {text}")


class _Scales:
    """PEQA: scales have the trained change added."""

    floats = False

    def numbers(self, part: Part, tensors: Mapping[str, Vector]) -> Tensor:
        (spec,) = part.specs
        return _tensor(tensors[spec.name])

    def dense(self, numbers: Tensor, packed: Packed | None) -> Tensor:
        assert packed is not None
        still = None if packed.least is None else torch.zeros_like(packed.least, dtype=torch.float)
        return Packed(self.scheme(packed.scheme), packed.codes, numbers, still).whole()

    def scheme(self, scheme: Scheme) -> Scheme:
        return rescaled_scheme(scheme)

    def put(self, packed: Packed, numbers: Tensor | None) -> Packed:
        return rescaled(packed, numbers)


class _Groups:
    """QA-LoRA: groups have ``s B A`` added to their least values."""

    floats = False

    def numbers(self, part: Part, tensors: Mapping[str, Vector]) -> Tensor:
        assert isinstance(part, QaLoraPart)
        a, b = (_tensor(tensors[spec.name]) for spec in part.specs)
        return part.scaling * (b @ a)

    def dense(self, numbers: Tensor, packed: Packed | None) -> Tensor:
        assert packed is not None
        return numbers.repeat_interleave(packed.scheme.group, -1)

    def scheme(self, scheme: Scheme) -> Scheme:
        return raised_scheme(scheme)

    def put(self, packed: Packed, numbers: Tensor | None) -> Packed:
        return raised(packed, numbers)


class _Added:
    """LoRA: ``W + s B A`` as floats, or in the format of W again; factors as PEFT has them."""

    def __init__(self, *, floats: bool) -> None:
        self.floats = floats

    def numbers(self, part: Part, tensors: Mapping[str, Vector]) -> Tensor:
        assert isinstance(part, LoraPart | CorePart)
        a, b = (_tensor(tensors[part.specs[place].name]) for place in (0, -1))
        return part.scaling * (b @ a)

    def dense(self, numbers: Tensor, packed: Packed | None) -> Tensor:
        return numbers

    def scheme(self, scheme: Scheme) -> Scheme:
        return scheme

    def put(self, packed: Packed, numbers: Tensor | None) -> Packed | Tensor:
        if self.floats:
            return packed.whole() if numbers is None else packed.whole() + numbers
        return packed if numbers is None else pack(packed.whole() + numbers, packed.scheme)


def _tensor(array: Vector) -> Tensor:
    return torch.from_numpy(array.copy())
