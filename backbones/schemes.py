"""How a frozen matrix is stored in 8 or 4 bits, and what stands for its numbers.

Codes and scales are what is stored, sent and addressed; each engine of `fedloom.backbones.kernels`
computes with the matrix ``W~`` that they stand for, and packs it as it likes, on the device.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fedloom.core.errors import ConfigError, ModelError

__all__ = ["NF4", "SCHEMES", "Packed", "Scheme", "joined", "pack", "scheme_of"]

NF4 = (
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453),
    *(-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0),
    *(0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
    *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
)
"""The 16 levels of NF4 (Dettmers et al., "QLoRA", NeurIPS 2023, appendix E)."""


@dataclass(frozen=True)
class Scheme:
    """A format of stored numbers.

    Attributes:
        kind: ``int8``: integers of -127 to 127, a float32 scale for each row; ``int4``: integers
            of -8 to 7, a bfloat16 scale for each group; ``nf4``: indices of `NF4`, scales as for
            int4.
        group: numbers of a row that share a scale; 0 for all of them.
    """

    kind: str
    group: int = 0

    @property
    def name(self) -> str:
        """As a configuration and a file call it."""
        return f"{self.kind}-{self.group}" if self.group else self.kind

    @property
    def bits(self) -> int:
        """Of a code."""
        return 8 if self.kind == "int8" else 4

    def codes(self, rows: int, columns: int) -> tuple[int, int]:
        """Shape of the codes of a matrix: one or two numbers in a byte."""
        return rows, columns * self.bits // 8

    def scales(self, rows: int, columns: int) -> tuple[int, ...]:
        """Shape of its scales."""
        return (rows, columns // self.group) if self.group else (rows,)

    @property
    def scale_dtype(self) -> torch.dtype:
        """Of scales, as stored."""
        return torch.bfloat16 if self.group else torch.float32

    def check(self, name: str, columns: int) -> None:
        """Check that rows of so many numbers can be stored so.

        Raises:
            ConfigError: groups do not divide them.
        """
        if self.group and columns % self.group:
            text = f"rows of {columns} numbers are not whole groups of {self.group}"
            raise ConfigError(f"{self.name}: tensor {name!r}: {text}")


SCHEMES: Mapping[str, Scheme] = {
    scheme.name: scheme
    for scheme in (
        Scheme("int8"),
        *(Scheme("int4", group) for group in (32, 64, 128)),
        Scheme("nf4", 64),
    )
}
"""All formats by name."""


def scheme_of(name: str) -> Scheme:
    """The format of that name; ``int4`` is ``int4-32``, ``nf4`` is ``nf4-64``.

    Raises:
        ModelError: there is none.
    """
    found = SCHEMES.get({"int4": "int4-32", "nf4": "nf4-64"}.get(name, name))
    if found is None:
        raise ModelError(f"format {name!r}: expected one of {', '.join(SCHEMES)}")
    return found


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
