"""How a frozen matrix is stored in 8 or 4 bits, and what stands for its numbers.

Codes and scales are what is stored, sent and addressed; each engine of `fedloom.backbones.kernels`
computes with the matrix ``W~`` that they stand for, and packs it as it likes, on the device.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fedloom.core.errors import ConfigError, ModelError

__all__ = ["NF4", "SCHEMES", "Packed", "Scheme", "joined", "pack", "row_chunks", "scheme_of"]

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
        kind: ``int8``: integers of -128 to 127; ``int4``: integers of -8 to 7; ``uint4``: integers
            of 0 to 15, and a least value that is added; ``nf4``: indices of `NF4`. Each times a
            scale.
        group: numbers of a row that share a scale; 0 for all of them.
        gguf: scales and least values are float16, as GGUF's blocks have them. Else scales of groups
            are bfloat16, those of rows and least values float32.
        wide: scales of groups are float32, as what was trained of them is merged.
    """

    kind: str
    group: int = 0
    gguf: bool = False
    wide: bool = False

    @property
    def name(self) -> str:
        """As a configuration and a file call it; llama.cpp's name for what are its blocks."""
        if self.gguf:
            return {"int8": "q8_0", "int4": "q4_0", "uint4": "q4_1"}[self.kind]
        grouped = f"{self.kind}-{self.group}" if self.group else self.kind
        return f"{grouped}-wide" if self.wide else grouped

    @property
    def bits(self) -> int:
        """Of a code."""
        return 8 if self.kind == "int8" else 4

    @property
    def raised(self) -> bool:
        """Whether groups have a least value."""
        return self.kind == "uint4"

    def codes(self, rows: int, columns: int) -> tuple[int, int]:
        """Shape of the codes of a matrix: one or two numbers in a byte."""
        return rows, columns * self.bits // 8

    def scales(self, rows: int, columns: int) -> tuple[int, ...]:
        """Shape of its scales."""
        return (rows, columns // self.group) if self.group else (rows,)

    @property
    def scale_dtype(self) -> torch.dtype:
        """Of scales, as stored."""
        if self.gguf:
            return torch.float16
        return torch.bfloat16 if self.group and not self.wide else torch.float32

    @property
    def least_dtype(self) -> torch.dtype:
        """Of least values, as stored."""
        return torch.float16 if self.gguf else torch.float32

    def check(self, name: str, columns: int) -> None:
        """Check that rows of so many numbers can be stored so.

        Raises:
            ConfigError: groups do not divide them.
        """
        if self.group and columns % self.group:
            text = f"rows of {columns} numbers are not whole groups of {self.group}"
            raise ConfigError(f"{self.name}: tensor {name!r}: {text}")


_OWN = (
    Scheme("int8"),
    *(Scheme("int4", group) for group in (32, 64, 128)),
    Scheme("nf4", 64),
    *(Scheme("uint4", group) for group in (32, 64, 128)),
)
_BLOCKS = tuple(Scheme(kind, 32, gguf=True) for kind in ("int8", "int4", "uint4"))
_WIDE = tuple(replace(scheme, wide=True) for scheme in (*_OWN, Scheme("int8", 32)) if scheme.group)
SCHEMES: Mapping[str, Scheme] = {scheme.name: scheme for scheme in (*_OWN, *_BLOCKS, *_WIDE)}
"""All formats by name; those that are wide come of merging."""


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
    least = grouped.amin(-1, keepdim=True).to(scheme.least_dtype) if scheme.raised else None
    scale = _scales(grouped, scheme).to(scheme.scale_dtype)
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
