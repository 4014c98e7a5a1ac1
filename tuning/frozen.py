"""The frozen tensors of a fused backbone's modules, as transformers shapes them."""

from functools import cached_property

import torch
from torch import Tensor

from fedloom.backbones.families import FAMILIES
from fedloom.backbones.fused import FusedBackbone
from fedloom.backbones.loftq import Pair, read_starts
from fedloom.backbones.norm import Norm
from fedloom.backbones.notes import scheme_in
from fedloom.backbones.product import Member, Product
from fedloom.backbones.schemes import Packed
from fedloom.tuning.base import Frozen

__all__ = ["FrozenModules"]


class FrozenModules:
    """Frozen tensors by module, made when asked for.

    Args:
        backbone: whose they are; module paths are relative to it.
    """

    def __init__(self, backbone: FusedBackbone) -> None:
        self._folder, self._prefix = backbone.checkpoint.folder, backbone.prefix
        self._scheme = scheme_in(self._folder)
        self._turned = FAMILIES[backbone.shape.family].transposed
        self._maps: dict[str, tuple[Product, Member]] = {}
        self._norms: dict[str, Norm] = {}
        for block in backbone.layers:
            self._norms |= {norm.name: norm for norm in (block.norm1, block.norm2)}
            for product in block.products:
                self._maps |= {member.name: (product, member) for member in product.members}

    def of(self, name: str) -> Frozen:
        """The tensors of a module; `KeyError` where there is none of that name."""
        if name in self._norms:
            norm = self._norms[name]
            bias = None if norm.bias is None else _known(norm.bias)
            return Frozen(norm.weight, bias, eps=norm.eps, centred=bias is not None)
        product, member = self._maps[name]
        weight = self._dense(product, member)
        bias = None if product.bias is None else _known(product.bias)[member.start : member.stop]
        return Frozen(weight.t() if self._turned else weight, bias, transposed=self._turned)

    def stored(self, name: str) -> Packed | None:
        """The matrix of a linear map as it is kept in fewer bits; None where it is not.

        Of a block that is not held, codes and scales have shapes and no numbers.
        """
        product, member = self._maps[name]
        weight = product.weight[member.start : member.stop]
        if not isinstance(weight, Tensor):
            return weight.packed
        if not weight.is_meta or self._scheme is None:
            return None
        scheme, shape = self._scheme, weight.shape
        sizes = scheme.codes(*shape), *[scheme.scales(*shape)] * (2 if scheme.raised else 1)
        return Packed(scheme, *(torch.empty(size, device="meta") for size in sizes))

    def start(self, name: str) -> Pair | None:
        """A and B that LoRA starts from at a linear map; None where the folder has none."""
        found = self._starts.get(name)
        return self._starts.get(f"{self._prefix}.{name}") if found is None else found

    @cached_property
    def _starts(self) -> dict[str, Pair]:
        return read_starts(self._folder)

    def _dense(self, product: Product, member: Member) -> Tensor:
        """The weight that is multiplied with, ``[d_out, d_in]``, whatever it is kept in."""
        weight = product.weight[member.start : member.stop]
        if isinstance(weight, Tensor):
            return weight
        return weight.whole()


def _known(bias: Tensor) -> Tensor:
    """A bias; zeros where it is of a block that is not held, and so of no consequence."""
    return torch.zeros(bias.shape) if bias.is_meta else bias
