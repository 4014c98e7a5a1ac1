"""Products of integers: inputs are rounded to 8 bits on the way, row by row.

``y = diag(t) (X Q^T) diag(s)`` with ``x ~ diag(t) X``: integer products are exact, and each row of
x has a scale of its own, so that no example's numbers depend on what else is in the batch. Q is
what is stored in 8 bits; of 4-bit codes it is made on the way, with one step for each row of the
weight. The gradient is ``dy W~``, of what is stored (`fedloom.backbones.kernels.dequantize`).
"""

import functools
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd import forward_ad

from fedloom.backbones.formats import Scheme
from fedloom.backbones.kernels.base import Capabilities
from fedloom.backbones.kernels.buffer import Buffer
from fedloom.backbones.kernels.dequantize import Dequantized
from fedloom.backbones.kernels.native import unpack_rows, unpacks
from fedloom.backbones.schemes import Packed, row_chunks

__all__ = ["DynamicInt8", "DynamicInt8Weight"]

_ROWS = 256
"""Rows of inputs at a time: what is made of them stays in a cache."""
_CHUNK = 2 << 20
"""Numbers of the weight at a time: so are outputs, and what 4-bit codes are unpacked to."""
_TYPES = (torch.float32, torch.bfloat16)


@dataclass(frozen=True)
class DynamicInt8Weight:
    """A frozen ``[d_out, d_in]`` matrix (`fedloom.backbones.product.Quantized`).

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
        y = x.new_empty(len(x), self.shape[0])
        starts = range(0, len(x), _ROWS)
        inputs = [_rounded(x[start : start + _ROWS].float()) for start in starts]
        for rows in row_chunks(self.shape, _CHUNK):
            weight, scale = self._codes(rows)
            for start, (codes, steps) in zip(starts, inputs, strict=True):
                own = torch._int_mm(codes, weight.t()).to(torch.float32).mul_(steps).mul_(scale)
                y[start : start + _ROWS, rows] = own if bias is None else own.add_(bias[rows])
        return y

    def _codes(self, rows: slice) -> tuple[Tensor, Tensor]:
        """Some rows in 8 bits, and the step of each, ``[n]``."""
        packed = self.plain.packed[rows]
        if not packed.scheme.group:
            return packed.codes, packed.scale
        codes = self.plain.buffer.of(packed.shape, torch.int8, packed.codes.device)
        steps = torch.empty(packed.shape[0])
        unpack_rows(packed, codes, steps)
        return codes, steps

    def dx(self, dy: Tensor) -> Tensor:
        """``dy W~``; see `Quantized.dx`."""
        return self.plain.dx(dy)


def _rounded(x: Tensor) -> tuple[Tensor, Tensor]:
    """Rows ``[n, d]`` as int8, and the step of each, ``[n, 1]``."""
    steps = (x.abs().amax(1, keepdim=True) / 127).clamp_min_(torch.finfo(torch.float32).tiny)
    return (x / steps).round_().to(torch.int8), steps


@functools.cache
def _exact() -> bool:
    """Whether torch's integer products are: without VNNI, those of oneDNN stop at 16 bits."""
    largest = torch.full((32, 64), 127, dtype=torch.int8)
    try:
        return bool((torch._int_mm(largest, largest.t()) == 64 * 127 * 127).all())
    except (AttributeError, RuntimeError):
        return False


class DynamicInt8:
    """Integer products: weights in 8 or 4 bits on CPUs."""

    name = "dynamic-int8"
    capabilities = Capabilities(fd_safe=False, dynamic_activations=True)

    def takes(self, scheme: Scheme, dtype: torch.dtype, device: torch.device) -> bool:
        """int8, and int4 where the compiled code is there; on a CPU whose products are exact."""
        if dtype not in _TYPES or device.type != "cpu" or not _exact():
            return False
        if scheme.gguf or scheme.kind not in ("int8", "int4"):
            return False
        return scheme.kind == "int8" or unpacks(scheme, device, dtype)

    def made(self, packed: Packed, dtype: torch.dtype, buffer: Buffer) -> DynamicInt8Weight:
        """The matrix; what is stored is used as it is."""
        return DynamicInt8Weight(Dequantized(packed, dtype, buffer))
