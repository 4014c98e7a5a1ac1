"""Products of 8-bit weights with inputs that are rounded to 8 bits on the way, row by row.

``y = diag(t) (X Q^T) diag(s)`` with ``x ~ diag(t) X``: integer products are exact, and each row of
x has a scale of its own, so that no example's numbers depend on what else is in the batch. The
gradient is ``dy W~``, of what is stored (`fedloom.backbones.kernels.dequantize`).
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd import forward_ad

from fedloom.backbones.kernels.base import Capabilities
from fedloom.backbones.kernels.buffer import Buffer
from fedloom.backbones.kernels.dequantize import Dequantized
from fedloom.backbones.schemes import Packed, Scheme

__all__ = ["DynamicInt8", "DynamicInt8Weight"]

_ROWS = 256
"""Rows of inputs at a time: what is made of them stays in a cache."""
_TYPES = (torch.float32, torch.bfloat16)


@dataclass(frozen=True)
class DynamicInt8Weight:
    """A frozen ``[d_out, d_in]`` matrix in 8 bits (`fedloom.backbones.product.Quantized`).

    Attributes:
        plain: the matrix, as the reference multiplies with it.
    """

    plain: Dequantized

    @property
    def shape(self) -> torch.Size:
        """``[d_out, d_in]``."""
        return self.plain.shape

    @property
    def nbytes(self) -> int:
        """Memory that is kept."""
        return self.plain.nbytes

    @property
    def packed(self) -> Packed:
        """The matrix as it is stored."""
        return self.plain.packed

    def __getitem__(self, rows: slice) -> "DynamicInt8Weight":
        """Some rows, sharing the numbers."""
        return DynamicInt8Weight(self.plain[rows])

    def whole(self) -> Tensor:
        """W~ itself; see `Quantized.whole`."""
        return self.plain.whole()

    def forward(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """``x W~^T + b`` of rounded rows; a derivative's rows are rounded as the others are."""
        plain = forward_ad.unpack_dual(x)
        if plain.tangent is None:
            return self._forward(x, bias)
        made = self._forward(plain.primal, bias), self._forward(plain.tangent, None)
        dual: Tensor = forward_ad.make_dual(*made)
        return dual

    def _forward(self, x: Tensor, bias: Tensor | None) -> Tensor:
        packed = self.packed
        turned = packed.codes.t()
        y = x.new_empty(len(x), self.shape[0])
        for start in range(0, len(x), _ROWS):
            codes, steps = _rounded(x[start : start + _ROWS].float())
            own = torch._int_mm(codes, turned).to(torch.float32).mul_(steps).mul_(packed.scale)
            y[start : start + _ROWS] = own if bias is None else own.add_(bias)
        return y

    def dx(self, dy: Tensor) -> Tensor:
        """``dy W~``; see `Quantized.dx`."""
        return self.plain.dx(dy)


def _rounded(x: Tensor) -> tuple[Tensor, Tensor]:
    """Rows ``[n, d]`` as int8, and the step of each, ``[n, 1]``."""
    steps = (x.abs().amax(1, keepdim=True) / 127).clamp_min_(torch.finfo(torch.float32).tiny)
    return (x / steps).round_().to(torch.int8), steps


class DynamicInt8:
    """Integer products: weights in 8 bits on CPUs."""

    name = "dynamic-int8"
    capabilities = Capabilities(fd_safe=False, dynamic_activations=True)

    def takes(self, scheme: Scheme, dtype: torch.dtype, device: torch.device) -> bool:
        """Weights in 8 bits with a scale for each row, on a CPU."""
        return scheme.name == "int8" and dtype in _TYPES and device.type == "cpu"

    def made(self, packed: Packed, dtype: torch.dtype, buffer: Buffer) -> DynamicInt8Weight:
        """The matrix; what is stored is used as it is."""
        return DynamicInt8Weight(Dequantized(packed, dtype, buffer))
