"""A stored matrix whose product rounds its inputs; its gradient is that of what is stored.

A derivative's rows go through the product as the others do, and ``dx`` is ``dy W~`` of what is
stored (`fedloom.backbones.kernels.dequantize`).
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.autograd import forward_ad

from fedloom.backbones.kernels.dequantize import Dequantized
from fedloom.backbones.schemes import Packed

__all__ = ["DynamicWeight", "RoundedProduct"]


class RoundedProduct(Protocol):
    """A product that rounds its inputs, each row by itself."""

    def kept(self, plain: Dequantized) -> int:
        """Bytes that it keeps of a matrix beside what is stored."""
        ...

    def forward(self, plain: Dequantized, x: Tensor, bias: Tensor | None) -> Tensor:
        """``x W~^T + b`` for ``[n, d_in]``, in the type of x; new memory.

        No row may depend on the others: a client of a cohort gets the bits that it gets alone.
        """
        ...


@dataclass(frozen=True)
class DynamicWeight:
    """A frozen ``[d_out, d_in]`` matrix (`fedloom.backbones.product.Quantized`).

    Attributes:
        plain: the matrix, as the reference multiplies with it.
        product: what multiplies forwards.
    """

    plain: Dequantized
    product: RoundedProduct

    @property
    def shape(self) -> torch.Size:
        """``[d_out, d_in]``."""
        return self.plain.shape

    @property
    def nbytes(self) -> int:
        """Memory that is kept."""
        return self.plain.nbytes + self.product.kept(self.plain)

    @property
    def packed(self) -> Packed:
        """The matrix as it is stored."""
        return self.plain.packed

    def __getitem__(self, rows: slice) -> "DynamicWeight":
        """Some rows, sharing the numbers."""
        return DynamicWeight(self.plain[rows], self.product)

    def whole(self) -> Tensor:
        """W~ itself; see `Quantized.whole`."""
        return self.plain.whole()

    def forward(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """``x W~^T + b`` of rounded rows; a derivative's rows are rounded as the others are."""
        dual = forward_ad.unpack_dual(x)
        if dual.tangent is None:
            return self.product.forward(self.plain, x, bias)
        value = self.product.forward(self.plain, dual.primal, bias)
        made: Tensor = forward_ad.make_dual(
            value, self.product.forward(self.plain, dual.tangent, None)
        )
        return made

    def dx(self, dy: Tensor) -> Tensor:
        """``dy W~``; see `Quantized.dx`."""
        return self.plain.dx(dy)
