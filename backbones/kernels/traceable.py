"""Products with stored weights of which every step is an operation that a tracer sees.

Nothing is kept between calls and no compiled code is called: what is traced is a graph that holds
the codes and their scales, and unpacks them where they are multiplied. For exported programs; on
this machine other engines are faster.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from fedloom.backbones.formats import Scheme
from fedloom.backbones.kernels.base import Capabilities
from fedloom.backbones.kernels.buffer import Buffer
from fedloom.backbones.product import affine
from fedloom.backbones.schemes import Packed

__all__ = ["TRACEABLE", "Traceable"]


@dataclass(frozen=True)
class _Matrix:
    """A frozen ``[d_out, d_in]`` matrix (`fedloom.backbones.product.Quantized`)."""

    packed: Packed
    dtype: torch.dtype

    @property
    def shape(self) -> torch.Size:
        """``[d_out, d_in]``."""
        return self.packed.shape

    @property
    def nbytes(self) -> int:
        """Memory that is kept."""
        return self.packed.nbytes

    def __getitem__(self, rows: slice) -> "_Matrix":
        """Some rows, sharing the numbers."""
        return _Matrix(self.packed[rows], self.dtype)

    def whole(self) -> Tensor:
        """W~ itself."""
        return self.packed.whole(self.dtype)

    def forward(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """``x W~^T + b``; scales of rows multiply outputs, which are fewer than weights."""
        if self.packed.scheme.group:
            return affine(x, self.whole(), bias)
        y = affine(x, self.packed.codes.to(self.dtype)) * self.packed.scale.to(self.dtype)
        return y if bias is None else y + bias

    def dx(self, dy: Tensor) -> Tensor:
        """``dy W~``."""
        return affine(dy, self.whole().t())


class Traceable:
    """Unpack by torch's operations, then multiply: every format, type and device."""

    name = "traceable"
    capabilities = Capabilities()

    def takes(self, scheme: Scheme, dtype: torch.dtype, device: torch.device) -> bool:
        """Always."""
        return True

    def made(self, packed: Packed, dtype: torch.dtype, buffer: Buffer) -> _Matrix:
        """The matrix; what is stored is used as it is, and the buffer is not."""
        return _Matrix(packed, dtype)


TRACEABLE = Traceable()
"""It has no state: one is enough."""
