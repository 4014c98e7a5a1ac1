"""torch's product of rounded inputs with 4-bit weights: KleidiAI on ARM with dot products.

``_dyn_quant_matmul_4bit`` takes the codes and bfloat16 scales of int4 as they are stored, and packs
them for the processor: about as many bytes again on ARM. Inputs are rounded to 8 bits, each row
between its own least and largest number. Elsewhere the same operator is a slow reference, right but
of no use: the probe finds that out.
"""

import functools
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fedloom.backbones.formats import Scheme
from fedloom.backbones.kernels.base import Capabilities
from fedloom.backbones.kernels.buffer import Buffer
from fedloom.backbones.kernels.dequantize import Dequantized
from fedloom.backbones.kernels.dynamic import DynamicWeight
from fedloom.backbones.schemes import Packed, pack

__all__ = ["KleidiAI"]

_TYPES = (torch.float32, torch.bfloat16)
_ERROR = 0.03
"""Relative error, by Frobenius norms, of a product whose inputs are rounded to 8 bits."""


@dataclass(frozen=True, eq=False)
class _Packs:
    """A matrix as torch's operator has it, and runs of its rows, once they were asked for.

    Attributes:
        whole: all rows.
        rows: how many.
        parts: runs by where their codes begin and how many rows there are.
    """

    whole: Tensor
    rows: int
    parts: dict[tuple[int, int], Tensor] = field(default_factory=dict)

    def kept(self, plain: Dequantized) -> int:
        """Bytes of all that is packed."""
        return sum(each.nbytes for each in (self.whole, *self.parts.values()))

    def forward(self, plain: Dequantized, x: Tensor, bias: Tensor | None) -> Tensor:
        """``x W~^T + b``; see `fedloom.backbones.kernels.dynamic.RoundedProduct`."""
        y = _multiplied(x, self._of(plain.packed), plain.packed).to(x.dtype)
        return y if bias is None else y.add_(bias)

    def _of(self, packed: Packed) -> Tensor:
        """These rows, packed where they have not been yet."""
        if len(packed.codes) == self.rows:
            return self.whole
        key = int(packed.codes.storage_offset()), len(packed.codes)
        if key not in self.parts:
            self.parts[key] = _packed(packed)
        return self.parts[key]


def _packed(packed: Packed) -> Tensor:
    rows, columns = packed.shape
    group = packed.scheme.group
    # One group a row is another kernel, whose scales are float32.
    scale = packed.scale.float() if group == columns else packed.scale
    made: Tensor = torch.ops.aten._dyn_quant_pack_4bit_weight(
        packed.codes.contiguous(), scale.contiguous(), None, group, columns, rows
    )
    return made


def _multiplied(x: Tensor, weight: Tensor, packed: Packed) -> Tensor:
    """``x W~^T``, float32."""
    rows, columns = packed.shape
    y: Tensor = torch.ops.aten._dyn_quant_matmul_4bit(
        x.float().contiguous(), weight, packed.scheme.group, columns, rows
    )
    return y


@functools.cache
def _right(scheme: Scheme) -> bool:
    """Whether this torch has the operator, its numbers are right, and no row changes another's."""
    made = torch.Generator().manual_seed(0)
    try:
        for rows, columns in ((24, scheme.group), (40, 3 * scheme.group)):
            packed = pack(torch.randn(rows, columns, generator=made), scheme)
            x, weight = torch.randn(9, columns, generator=made), _packed(packed)
            y = _multiplied(x, weight, packed)
            alone = torch.cat([_multiplied(x[i : i + 1], weight, packed) for i in range(9)])
            expected = x @ packed.whole().t()
            off = float((y - expected).norm() / expected.norm())
            if not torch.equal(y, alone) or not off <= _ERROR:
                return False
    except (AttributeError, RuntimeError):
        return False
    return True


class KleidiAI:
    """Products with 4-bit integers, for CPUs."""

    name = "kleidiai"
    capabilities = Capabilities(fd_safe=False, dynamic_activations=True)

    def takes(self, scheme: Scheme, dtype: torch.dtype, device: torch.device) -> bool:
        """int4 with bfloat16 scales, on a CPU where torch's operator is right."""
        if dtype not in _TYPES or device.type != "cpu":
            return False
        stored = scheme.kind == "int4" and not (scheme.gguf or scheme.wide)
        return stored and _right(scheme)

    def made(self, packed: Packed, dtype: torch.dtype, buffer: Buffer) -> DynamicWeight:
        """The matrix, packed beside what is stored."""
        packs = _Packs(_packed(packed), len(packed.codes))
        return DynamicWeight(Dequantized(packed, dtype, buffer), packs)
