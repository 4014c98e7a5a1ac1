"""The reference of all engines: weights are unpacked, some rows at a time, and multiplied.

Inputs are not rounded, and both products are those of one matrix, ``x W~^T`` and ``dy W~``. Rows of
8-bit codes are copied to the type of the products, which holds them exactly, and their scales
multiply outputs; 4-bit codes are unpacked with their scales.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd import forward_ad

from fedloom.backbones.formats import Scheme
from fedloom.backbones.kernels.base import Capabilities
from fedloom.backbones.kernels.buffer import Buffer
from fedloom.backbones.kernels.native import unpack, unpacks
from fedloom.backbones.product import affine
from fedloom.backbones.schemes import Packed, row_chunks

__all__ = ["DEQUANTIZE", "Dequantize", "Dequantized", "unpacked"]

_CHUNK = 8 << 20
"""Bytes of unpacked rows at a time: little memory, and still in a cache when multiplied."""


@dataclass(frozen=True)
class Dequantized:
    """A frozen ``[d_out, d_in]`` matrix (`fedloom.backbones.product.Quantized`).

    Attributes:
        packed: the matrix.
        dtype: of inputs and outputs.
        buffer: for unpacked rows.
    """

    packed: Packed
    dtype: torch.dtype
    buffer: Buffer

    @property
    def shape(self) -> torch.Size:
        """``[d_out, d_in]``."""
        return self.packed.shape

    @property
    def nbytes(self) -> int:
        """Memory that is kept."""
        return self.packed.nbytes

    def __getitem__(self, rows: slice) -> "Dequantized":
        """Some rows, sharing the numbers."""
        return Dequantized(self.packed[rows], self.dtype, self.buffer)

    def whole(self) -> Tensor:
        """W~ itself; see `Quantized.whole`."""
        return self.packed.whole(self.dtype)

    def forward(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """``x W~^T + b``; see `Quantized.forward`."""
        plain = forward_ad.unpack_dual(x)
        if plain.tangent is None:
            return self._forward(x, bias)
        count = len(plain.primal)
        both = self._forward(torch.cat((plain.primal, plain.tangent)), None)  # unpacked once
        value, tangent = both[:count], both[count:]
        if bias is not None:
            value += bias
        dual: Tensor = forward_ad.make_dual(value, tangent)
        return dual

    def _forward(self, x: Tensor, bias: Tensor | None) -> Tensor:
        chunks = self._chunks()
        if len(chunks) == 1:
            return self._multiplied(x, chunks[0], bias)
        y = x.new_empty(len(x), self.shape[0])
        for rows in chunks:
            y[:, rows] = self._multiplied(x, rows, bias)
        return y

    def _multiplied(self, x: Tensor, rows: slice, bias: Tensor | None) -> Tensor:
        weight, scale = self._unpacked(rows)
        own = None if bias is None else bias[rows]
        if scale is None:
            return affine(x, weight, own)
        y = affine(x, weight).mul_(scale)
        return y if own is None else y.add_(own)

    def dx(self, dy: Tensor) -> Tensor:
        """``dy W~``; see `Quantized.dx`."""
        first, *others = self._chunks()
        total = self._share(dy, first)
        for rows in others:
            total += self._share(dy, rows)
        return total

    def _share(self, dy: Tensor, rows: slice) -> Tensor:
        weight, scale = self._unpacked(rows)
        own = dy[:, rows]
        return affine(own if scale is None else own * scale, weight.t())

    def _chunks(self) -> list[slice]:
        return row_chunks(self.shape, _CHUNK // self.dtype.itemsize)

    def _unpacked(self, rows: slice) -> tuple[Tensor, Tensor | None]:
        """Some rows in the type of the products, and what their outputs are multiplied by."""
        packed = self.packed[rows]
        if packed.scheme.group:
            return unpacked(packed, self.dtype, self.buffer), None
        out = self.buffer.of(packed.shape, self.dtype, packed.codes.device)
        return out.copy_(packed.codes), packed.scale.to(self.dtype)


def unpacked(packed: Packed, dtype: torch.dtype, buffer: Buffer) -> Tensor:
    """``W~`` of a format with groups: in the buffer where compiled code unpacks it, else by torch.

    Args:
        packed: the matrix, or some rows of it.
        dtype: of the numbers.
        buffer: what is in it is good until the thread's next use of it.
    """
    device = packed.codes.device
    if not unpacks(packed.scheme, device, dtype):
        return packed.whole(dtype)
    out = buffer.of(packed.shape, dtype, device)
    unpack(packed, out)
    return out


class Dequantize:
    """Unpack, then multiply: every format, type and device."""

    name = "dequantize"
    capabilities = Capabilities()

    def takes(self, scheme: Scheme, dtype: torch.dtype, device: torch.device) -> bool:
        """Always."""
        return True

    def made(self, packed: Packed, dtype: torch.dtype, buffer: Buffer) -> Dequantized:
        """The matrix; what is stored is used as it is."""
        return Dequantized(packed, dtype, buffer)


DEQUANTIZE = Dequantize()
"""It has no state: one is enough."""
