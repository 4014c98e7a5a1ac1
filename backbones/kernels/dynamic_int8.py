"""Products of integers: inputs are rounded to 8 bits on the way, row by row.

``y = diag(t) (X Q^T) diag(s)`` with ``x ~ diag(t) X``: integer products are exact, and each row of
x has a scale of its own, so that no example's numbers depend on what else is in the batch. Q is
what is stored in 8 bits; of 4-bit codes it is made on the way, with one step for each row of the
weight. The gradient is ``dy W~``, of what is stored (`fedloom.backbones.kernels.dequantize`).
"""

import functools

import torch
from torch import Tensor

from fedloom.backbones.formats import Scheme
from fedloom.backbones.kernels.base import Capabilities
from fedloom.backbones.kernels.buffer import Buffer
from fedloom.backbones.kernels.dequantize import Dequantized
from fedloom.backbones.kernels.dynamic import DynamicWeight
from fedloom.backbones.kernels.native import unpack_rows, unpacks
from fedloom.backbones.schemes import Packed, row_chunks

__all__ = ["DynamicInt8"]

_ROWS = 256
"""Rows of inputs at a time: what is made of them stays in a cache."""
_CHUNK = 2 << 20
"""Numbers of the weight at a time: so are outputs, and what 4-bit codes are unpacked to."""
_TYPES = (torch.float32, torch.bfloat16)


class _Integers:
    """``diag(t) (X Q^T) diag(s)``; what is stored is used as it is."""

    def kept(self, plain: Dequantized) -> int:
        """Nothing."""
        return 0

    def forward(self, plain: Dequantized, x: Tensor, bias: Tensor | None) -> Tensor:
        """``x W~^T + b``; see `fedloom.backbones.kernels.dynamic.RoundedProduct`."""
        y = x.new_empty(len(x), plain.shape[0])
        starts = range(0, len(x), _ROWS)
        inputs = [_rounded(x[start : start + _ROWS].float()) for start in starts]
        for rows in row_chunks(plain.shape, _CHUNK):
            weight, scale = _codes(plain, rows)
            for start, (codes, steps) in zip(starts, inputs, strict=True):
                own = torch._int_mm(codes, weight.t()).to(torch.float32).mul_(steps).mul_(scale)
                y[start : start + _ROWS, rows] = own if bias is None else own.add_(bias[rows])
        return y


def _codes(plain: Dequantized, rows: slice) -> tuple[Tensor, Tensor]:
    """Some rows in 8 bits, and the step of each, ``[n]``."""
    packed = plain.packed[rows]
    if not packed.scheme.group:
        return packed.codes, packed.scale
    codes = plain.buffer.of(packed.shape, torch.int8, packed.codes.device)
    steps = torch.empty(packed.shape[0])
    unpack_rows(packed, codes, steps)
    return codes, steps


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
        if scheme.gguf or scheme.wide or scheme.kind not in ("int8", "int4"):
            return False
        return scheme.kind == "int8" or unpacks(scheme, device, dtype)

    def made(self, packed: Packed, dtype: torch.dtype, buffer: Buffer) -> DynamicWeight:
        """The matrix; what is stored is used as it is."""
        return DynamicWeight(Dequantized(packed, dtype, buffer), _Integers())
