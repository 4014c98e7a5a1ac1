"""How a frozen matrix is stored in 8 or 4 bits, and what stands for its numbers.

Codes and scales are what is stored, sent and addressed; each engine of `fedloom.backbones.kernels`
computes with the matrix ``W~`` that they stand for, and packs it as it likes, on the device.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fedloom.backbones.formats import NF4, Scheme
from fedloom.core.errors import ModelError

__all__ = ["Packed", "joined", "pack", "row_chunks"]


@dataclass(frozen=True)
class Packed:
    """A matrix ``W~ [d_out, d_in]`` as it is stored.

    Attributes:
        scheme: its format.
        codes: int8 ``[d_out, d_in]``, or uint8 ``[d_out, d_in / 2]``: of two neighbours in a row
            the first in the low four bits (int4: value + 8; nf4: index).
        scale: ``[d_out]``, or ``[d_out, d_in / group]``.
        least: what is added to the numbers of a group, ``[d_out, d_in / group]``; None for nothing.
    """

    scheme: Scheme
    codes: Tensor
    scale: Tensor
    least: Tensor | None = None

    @property
    def shape(self) -> torch.Size:
        """``[d_out, d_in]``."""
        rows, columns = self.codes.shape
        return torch.Size((rows, columns * 8 // self.scheme.bits))

    @property
    def nbytes(self) -> int:
        """Memory that is kept."""
        return sum(tensor.nbytes for tensor in self.tensors)

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """Codes, scales and, where there are, least values."""
        return tuple(t for t in (self.codes, self.scale, self.least) if t is not None)

    def __getitem__(self, rows: slice | Tensor) -> "Packed":
        """Some rows: a slice of them shares the numbers."""
        return Packed(self.scheme, *(tensor[rows] for tensor in self.tensors))

    def whole(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """``W~``, computed in float32 at least and rounded to `dtype`: every engine's reference."""
        wide = torch.promote_types(dtype, torch.float32)
        scale = self.scale.to(wide)
        if not self.scheme.group:
            return (self.codes.to(wide) * scale[:, None]).to(dtype)
        values = self._values(wide)
        groups = values.view(len(values), -1, self.scheme.group) * scale[..., None]
        if self.least is not None:
            groups += self.least.to(wide)[..., None]
        return groups.flatten(1).to(dtype)

    def _values(self, dtype: torch.dtype) -> Tensor:
        """What scales multiply."""
        if self.scheme.bits == 8:
            return self.codes.to(dtype)
        pairs = torch.stack((self.codes & 15, self.codes >> 4), -1).flatten(1)
        if self.scheme.kind == "nf4":
            return _levels(pairs.device).to(dtype)[pairs.long()]
        return pairs.to(dtype) - (8 if self.scheme.kind == "int4" else 0)


def row_chunks(shape: Sequence[int], most: int) -> list[slice]:
    """All rows of a matrix, so many at a time that they hold `most` numbers; one at least."""
    rows, columns = shape
    step = max(most // columns, 1)
    return [slice(start, min(start + step, rows)) for start in range(0, rows, step)]


def joined(parts: Sequence[Packed]) -> Packed:
    """Rows of several matrices of one format in one matrix."""
    if len(parts) == 1:
        return parts[0]
    together = zip(*(part.tensors for part in parts), strict=True)
    return Packed(parts[0].scheme, *(torch.cat(tensors) for tensors in together))


def pack(weight: Tensor, scheme: Scheme) -> Packed:
    """Store a matrix in fewer bits.

    int8: a scale is the largest magnitude of its row or group / 127. int4: a group's scale is its
    number of largest magnitude / -8, which is then stored exactly but for the rounding of the
    scale; that is a smaller error than a symmetric range's. uint4: from a group's least number in
    15 steps to its largest. nf4: a group's scale is its largest magnitude.

    Args:
        weight: ``[d_out, d_in]``, finite.
        scheme: the format.

    Raises:
        ConfigError: groups do not divide the rows.
        ModelError: a number is not finite, or too large for the format's scales.
    """
    scheme.check("weight", weight.shape[1])
    wide = weight.float()
    if not bool(torch.isfinite(wide).all()):
        raise ModelError("a weight is not finite")
    grouped = wide.view(len(wide), -1, scheme.group or wide.shape[1])
    _, scale_type, *least_type = (getattr(torch, name) for name in scheme.types)
    least = grouped.amin(-1, keepdim=True).to(*least_type) if scheme.raised else None
    scale = _scales(grouped, scheme).to(scale_type)
    if not bool(torch.isfinite(scale).all()):
        raise ModelError(f"a weight is too large for {scheme.name}")
    steps = torch.where(scale == 0, 1.0, scale.float())
    codes = _codes((grouped if least is None else grouped - least.float()) / steps, scheme)
    shape = scheme.scales(*wide.shape)
    kept = () if least is None else (least.view(shape),)
    return Packed(scheme, codes, scale.view(shape), *kept)


def _scales(grouped: Tensor, scheme: Scheme) -> Tensor:
    """Of numbers ``[d_out, groups, group]``, float32 ``[d_out, groups, 1]``."""
    if scheme.kind == "int4":
        return grouped.gather(-1, grouped.abs().argmax(-1, keepdim=True)) / -8
    if scheme.kind == "uint4":
        return (grouped.amax(-1, keepdim=True) - grouped.amin(-1, keepdim=True)) / 15
    largest = grouped.abs().amax(-1, keepdim=True)
    return largest / 127 if scheme.kind == "int8" else largest


def _codes(scaled: Tensor, scheme: Scheme) -> Tensor:
    """The nearest codes of ``[d_out, groups, group]``, as `Packed` has them."""
    if scheme.kind == "int8":
        return torch.round(scaled).clamp_(-127, 127).to(torch.int8).flatten(1)
    if scheme.kind == "nf4":
        levels = _levels(scaled.device)
        values = torch.bucketize(scaled, (levels[1:] + levels[:-1]) / 2)
    else:
        values = torch.round(scaled) + (8 if scheme.kind == "int4" else 0)
        values = values.clamp_(0, 15)
    flat = values.to(torch.uint8).flatten(1)
    return flat[:, 0::2] | (flat[:, 1::2] << 4)


def _levels(device: torch.device) -> Tensor:
    return torch.tensor(NF4, device=device)
