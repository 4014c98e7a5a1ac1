"""How a frozen matrix is stored in 8 or 4 bits, and what stands for its numbers.

Codes and scales are what is stored, sent and addressed; each engine of `fedloom.backbones.kernels`
computes with the matrix ``W~`` that they stand for, and packs it as it likes, on the device.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fedloom.backbones.formats import NF4, SCHEMES, Scheme, scheme_of
from fedloom.core.errors import ModelError

__all__ = ["NF4", "SCHEMES", "Packed", "Scheme", "joined", "pack", "scheme_of"]


@dataclass(frozen=True)
class Packed:
    """A matrix ``W~ [d_out, d_in]`` as it is stored.

    Attributes:
        scheme: its format.
        codes: int8 ``[d_out, d_in]``, or uint8 ``[d_out, d_in / 2]``: of two neighbours in a row
            the first in the low four bits (int4: value + 8; nf4: index).
        scale: float32 ``[d_out]``, or bfloat16 ``[d_out, d_in / group]``.
    """

    scheme: Scheme
    codes: Tensor
    scale: Tensor

    @property
    def shape(self) -> torch.Size:
        """``[d_out, d_in]``."""
        rows, columns = self.codes.shape
        return torch.Size((rows, columns * 8 // self.scheme.bits))

    @property
    def nbytes(self) -> int:
        """Memory that is kept."""
        return self.codes.nbytes + self.scale.nbytes

    def __getitem__(self, rows: slice | Tensor) -> "Packed":
        """Some rows: a slice of them shares the numbers."""
        return Packed(self.scheme, self.codes[rows], self.scale[rows])

    def whole(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """``W~``, computed in float32 at least and rounded to `dtype`: every engine's reference."""
        wide = torch.promote_types(dtype, torch.float32)
        scale = self.scale.to(wide)
        if not self.scheme.group:
            return (self.codes.to(wide) * scale[:, None]).to(dtype)
        pairs = torch.stack((self.codes & 15, self.codes >> 4), -1).flatten(1)
        if self.scheme.kind == "nf4":
            values = _levels(pairs.device).to(wide)[pairs.long()]
        else:
            values = pairs.to(wide) - 8
        groups = values.view(len(values), -1, self.scheme.group) * scale[..., None]
        return groups.flatten(1).to(dtype)


def joined(parts: Sequence[Packed]) -> Packed:
    """Rows of several matrices of one format in one matrix."""
    if len(parts) == 1:
        return parts[0]
    codes, scale = (torch.cat([getattr(p, name) for p in parts]) for name in ("codes", "scale"))
    return Packed(parts[0].scheme, codes, scale)


def pack(weight: Tensor, scheme: Scheme) -> Packed:
    """Store a matrix in fewer bits.

    int8: a row's scale is its largest magnitude / 127. int4: a group's scale is its number of
    largest magnitude / -8, which is then stored exactly but for the rounding of the scale; that is
    a smaller error than a symmetric range's. nf4: a group's scale is its largest magnitude.

    Args:
        weight: ``[d_out, d_in]``, finite.
        scheme: the format.

    Raises:
        ConfigError: groups do not divide the rows.
        ModelError: a number is not finite.
    """
    scheme.check("weight", weight.shape[1])
    wide = weight.float()
    if not bool(torch.isfinite(wide).all()):
        raise ModelError("a weight is not finite")
    if scheme.kind == "int8":
        return _int8(wide, scheme)
    grouped = wide.view(len(wide), -1, scheme.group)
    if scheme.kind == "int4":
        largest = grouped.gather(-1, grouped.abs().argmax(-1, keepdim=True))
        scale = (largest / -8).to(torch.bfloat16)
        steps = torch.where(scale == 0, 1.0, scale.float())
        values = (torch.round(grouped / steps).clamp_(-8, 7) + 8).to(torch.uint8)
    else:
        scale = grouped.abs().amax(-1, keepdim=True).to(torch.bfloat16)
        steps = torch.where(scale == 0, 1.0, scale.float())
        levels = _levels(wide.device)
        between = (levels[1:] + levels[:-1]) / 2
        values = torch.bucketize(grouped / steps, between).to(torch.uint8)
    flat = values.flatten(1)
    codes = flat[:, 0::2] | (flat[:, 1::2] << 4)
    return Packed(scheme, codes.contiguous(), scale.squeeze(-1))


def _int8(wide: Tensor, scheme: Scheme) -> Packed:
    scale = wide.abs().amax(1) / 127
    steps = torch.where(scale > 0, scale, 1.0)[:, None]
    return Packed(scheme, torch.round(wide / steps).clamp_(-127, 127).to(torch.int8), scale)


def _levels(device: torch.device) -> Tensor:
    return torch.tensor(NF4, device=device)
