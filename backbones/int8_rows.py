"""Frozen weights kept in 8 bits, one scale for each output.

``W~ = diag(s) Q`` with integers Q of -127 to 127. Products go through W~ as it is:
``x W~^T = (x Q^T) diag(s)`` and ``dy W~ = (dy diag(s)) Q``, where Q is brought to the type of the
products one weight at a time, in one buffer. Copied so, integers cost a few hundredths of the
product, and both float32 and bfloat16 hold them exactly; inputs are not rounded, so that the
gradient is that of what was computed.
"""

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from fedloom.backbones.block import Block
from fedloom.backbones.product import Product, affine

__all__ = ["Buffer", "Int8Rows", "in_int8"]

_MOST = 127


@dataclass
class Buffer:
    """Memory for one weight, which all that share it use in turn. For one thread."""

    _flat: Tensor = field(default_factory=lambda: torch.empty(0))

    def filled(self, values: Tensor, dtype: torch.dtype) -> Tensor:
        """A copy of `values` in another type, good until the next call."""
        flat, count = self._flat, values.numel()
        if flat.numel() < count or (flat.dtype, flat.device) != (dtype, values.device):
            self._flat = torch.empty(count, dtype=dtype, device=values.device)
        return self._flat[:count].view(values.shape).copy_(values)


@dataclass(frozen=True)
class Int8Rows:
    """A frozen ``[d_out, d_in]`` matrix in 8 bits (`fedloom.backbones.product.Quantized`).

    Attributes:
        integers: int8 ``[d_out, d_in]``: Q.
        scale: ``[d_out]``, in the type of the products: s.
        buffer: for Q in that type.
    """

    integers: Tensor
    scale: Tensor
    buffer: Buffer

    @staticmethod
    def of(weight: Tensor, buffer: Buffer) -> "Int8Rows":
        """Round a matrix.

        A row's scale is its largest magnitude / 127, so that a number moves by half of that; in
        bfloat16, whose scale is rounded itself, by a whole one at most.
        """
        wide = weight.to(torch.promote_types(weight.dtype, torch.float32))
        scale = (wide.abs().amax(1) / _MOST).to(weight.dtype)
        steps = torch.where(scale > 0, scale, 1.0).to(wide)[:, None]
        integers = torch.round(wide / steps).clamp_(-_MOST, _MOST)
        return Int8Rows(integers.to(torch.int8), scale, buffer)

    @property
    def shape(self) -> torch.Size:
        """``[d_out, d_in]``."""
        return self.integers.shape

    @property
    def nbytes(self) -> int:
        """Memory that is kept."""
        return self.integers.nbytes + self.scale.nbytes

    def __getitem__(self, rows: slice) -> "Int8Rows":
        """Some rows, sharing the numbers."""
        return Int8Rows(self.integers[rows], self.scale[rows], self.buffer)

    def forward(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """``x W~^T + b``; see `Quantized.forward`."""
        y = affine(x, self._whole()).mul_(self.scale)
        return y if bias is None else y.add_(bias)

    def dx(self, dy: Tensor) -> Tensor:
        """``dy W~``; see `Quantized.dx`."""
        return affine(dy * self.scale, self._whole().t())

    def _whole(self) -> Tensor:
        return self.buffer.filled(self.integers, self.scale.dtype)


def in_int8(block: Block, buffer: Buffer) -> Block:
    """A block whose products keep their weights in 8 bits; biases and norms stay as they are."""

    def kept(product: Product) -> Product:
        assert isinstance(product.weight, Tensor)
        return replace(product, weight=Int8Rows.of(product.weight, buffer))

    attention, mlp = block.attention, block.mlp
    return replace(
        block,
        attention=replace(attention, qkv=kept(attention.qkv), out=kept(attention.out)),
        mlp=replace(mlp, up=kept(mlp.up), down=kept(mlp.down)),
    )
