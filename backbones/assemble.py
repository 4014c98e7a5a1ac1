"""Build frozen blocks from a checkpoint."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fedloom.backbones.attention import Attention
from fedloom.backbones.block import Block
from fedloom.backbones.checkpoint import Checkpoint
from fedloom.backbones.families import FAMILIES, Family
from fedloom.backbones.kernels.base import Engine
from fedloom.backbones.kernels.buffer import Buffer
from fedloom.backbones.kernels.dequantize import DEQUANTIZE
from fedloom.backbones.mlp import Mlp
from fedloom.backbones.norm import Norm
from fedloom.backbones.product import Member, Product, Quantized
from fedloom.backbones.schemes import Packed, joined
from fedloom.backbones.shape import Shape
from fedloom.core.errors import ModelError

__all__ = ["Source"]


@dataclass(frozen=True)
class Source:
    """Weights by their canonical part, in the type and on the device that they are wanted.

    Attributes:
        checkpoint: where they lie.
        shape: of the backbone.
        dtype: of the products.
        kernel: what multiplies with weights that are stored in fewer bits.
        buffer: for unpacked weights.
        hollow: nothing is read: tensors have their shapes and no numbers (the ``meta`` device).
    """

    checkpoint: Checkpoint
    shape: Shape
    dtype: torch.dtype
    kernel: Engine = DEQUANTIZE
    buffer: Buffer = field(default_factory=Buffer)
    hollow: bool = False

    @property
    def family(self) -> Family:
        """The names of the shape's family."""
        return FAMILIES[self.shape.family]

    @property
    def norm_dtype(self) -> torch.dtype:
        """float32 in layer norms on CPUs: their statistics are then float32, as on GPUs."""
        on_cpu = self.checkpoint.device.type == "cpu"
        mixed = self.dtype == torch.bfloat16 and on_cpu and not self.shape.rms
        return torch.float32 if mixed else self.dtype

    def outer(self, part: str, field: str, expected: tuple[int, ...]) -> Tensor:
        """A tensor outside of blocks."""
        names = self.family.stored(self.family.outer[part], field)
        return self._read(names, expected).to(self.dtype)

    def outer_norm(self, part: str) -> Norm | None:
        """A norm outside of blocks; None where the family has none there."""
        if part not in self.family.outer:
            return None
        name = self.family.outer[part]
        fields = [self.family.stored(name, field) for field in ("weight", "bias")]
        return self._norm(name, fields)

    def _norm(self, name: str, fields: Sequence[tuple[str, ...]]) -> Norm:
        wide = (self.shape.width,)
        count = 1 if self.shape.rms else 2
        tensors = [self._read(names, wide) for names in fields[:count]]
        weight, *bias = (tensor.to(self.norm_dtype) for tensor in tensors)
        return Norm(name, weight, bias[0] if bias else None, self.shape.eps)

    def block(self, layer: int) -> Block:
        """Block `layer`.

        Raises:
            ModelError: the checkpoint lacks one of its tensors or holds it in another shape.
        """
        shape = self.shape
        d, widths = shape.width, shape.qkv_widths
        if "qkv" in self.family.parts:
            qkv = self._product(layer, {"qkv": sum(widths)}, d, shape.qkv_bias)
        else:
            parts = dict(zip(("q", "k", "v"), widths, strict=True))
            qkv = self._product(layer, parts, d, shape.qkv_bias)
        ups = ("gate", "up") if shape.gated else ("up",)
        up = self._product(layer, dict.fromkeys(ups, shape.inner), d, shape.mlp_bias)
        return Block(
            attention=Attention(
                qkv=qkv,
                out=self._product(layer, {"o": d}, widths[0], shape.out_bias),
                widths=widths,
                head_dim=shape.head_dim,
                name=qkv.members[0].name.rpartition(".")[0],
            ),
            norm1=self._layer_norm(layer, "norm1"),
            mlp=Mlp(
                up=up,
                down=self._product(layer, {"down": d}, shape.inner, shape.mlp_bias),
                activation=shape.activation,
            ),
            norm2=self._layer_norm(layer, "norm2"),
            post_norm=shape.post_norm,
        )

    def _layer_norm(self, layer: int, part: str) -> Norm:
        fields = [self.family.stored_part(part, layer, field) for field in ("weight", "bias")]
        return self._norm(self.family.module(part, layer), fields)

    def _product(self, layer: int, widths: dict[str, int], d_in: int, biased: bool) -> Product:
        weights: list[Tensor | Packed] = []
        biases, members = [], []
        start = 0
        for part, width in widths.items():
            weights.append(self._weight(layer, part, (width, d_in)))
            if biased:
                names = self.family.stored_part(part, layer, "bias")
                biases.append(self._read(names, (width,)))
            members.append(Member(self.family.module(part, layer), start, start + width))
            start += width
        bias = _joined(biases).to(self.dtype) if biases else None
        return Product(tuple(members), self._multiplied(weights), bias)

    def _multiplied(self, weights: Sequence[Tensor | Packed]) -> Tensor | Quantized:
        """Several weights of one input as they are multiplied with, their rows side by side."""
        packed = [weight for weight in weights if isinstance(weight, Packed)]
        if len(packed) == len(weights) and len({weight.scheme for weight in packed}) == 1:
            whole = joined(packed)
            able = self.kernel.takes(whole.scheme, self.dtype, whole.codes.device)
            kernel = self.kernel if able else DEQUANTIZE
            return kernel.made(whole, self.dtype, self.buffer)
        plain = [w.whole(self.dtype) if isinstance(w, Packed) else w for w in weights]
        return _joined(plain).to(self.dtype)

    def _weight(self, layer: int, part: str, expected: tuple[int, int]) -> Tensor | Packed:
        names = self.family.stored_part(part, layer, "weight")
        return self._stored(names, expected) or self._read(
            names, expected, transposed=self.family.transposed
        )

    def _stored(self, names: Sequence[str], expected: tuple[int, int]) -> Packed | None:
        packed = None if self.hollow else self.checkpoint.packed(names)
        if packed is not None and packed.shape != expected:
            have = tuple(packed.shape)
            raise ModelError(f"tensor {names[0]!r}: expected {expected}, got {have}")
        return packed

    def table(self, part: str, expected: tuple[int, int]) -> Tensor | Packed:
        """A matrix outside of blocks that is looked up in."""
        names = self.family.stored(self.family.outer[part], "weight")
        return self._stored(names, expected) or self._read(names, expected).to(self.dtype)

    def linear(self, weight: Tensor | Packed) -> Tensor | Quantized:
        """A matrix as it is multiplied with; a tensor that is used elsewhere is not copied."""
        return weight.to(self.dtype) if isinstance(weight, Tensor) else self._multiplied([weight])

    def _read(
        self, names: Sequence[str], expected: tuple[int, ...], *, transposed: bool = False
    ) -> Tensor:
        if self.hollow:
            return torch.empty(expected, device="meta")
        tensor = self.checkpoint.get(names)
        return _checked(tensor.t() if transposed else tensor, expected, names[0])


def _joined(tensors: list[Tensor]) -> Tensor:
    """Rows of several tensors in one, in memory of its own.

    Joining hollow ones would load torch's Python kernels: 70 MB, and seconds.
    """
    if tensors[0].is_meta:
        rows = sum(len(tensor) for tensor in tensors)
        return tensors[0].new_empty((rows, *tensors[0].shape[1:]))
    return torch.cat(tensors)


def _checked(tensor: Tensor, expected: tuple[int, ...], name: str) -> Tensor:
    if tensor.shape != expected:
        have = tuple(tensor.shape)
        raise ModelError(f"tensor {name!r}: expected {expected} from config.json, got {have}")
    return tensor
