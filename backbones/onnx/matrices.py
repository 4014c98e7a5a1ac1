"""Matrices as they lie in files, in numpy: floats of some type, or 8 and 4 bits with scales."""

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fedloom.backbones.formats import NF4, Scheme

__all__ = ["Chosen", "Codes", "Floats", "Matrix", "Plain", "widened"]

Floats: TypeAlias = NDArray[np.float32]
Chosen: TypeAlias = NDArray[np.int64] | slice
"""Rows of a matrix."""


@dataclass(frozen=True, eq=False)
class Plain:
    """A matrix of floats.

    Attributes:
        raw: float32 or float16, or uint16 that are the bits of bfloat16, ``[d_out, d_in]``.
        turned: it lies as ``[d_in, d_out]``, as in GPT-2's checkpoints.
    """

    raw: NDArray[Any]
    turned: bool = False

    @property
    def shape(self) -> tuple[int, int]:
        """``(d_out, d_in)``."""
        rows, columns = self.raw.shape
        return (columns, rows) if self.turned else (rows, columns)

    def rows(self, chosen: Chosen) -> Floats:
        """Some rows, ``[n, d_in]``."""
        return widened((self.raw.T if self.turned else self.raw)[chosen])

    def part(self, chosen: slice) -> "Plain":
        """Some rows as they lie."""
        return Plain(self.raw[:, chosen] if self.turned else self.raw[chosen], self.turned)


@dataclass(frozen=True)
class Codes:
    """A matrix in 8 or 4 bits, as `fedloom.backbones.schemes.Packed` holds it.

    Attributes:
        scheme: its format.
        codes: int8 ``[d_out, d_in]``, or uint8 ``[d_out, d_in / 2]``.
        scale: float32 ``[d_out]`` or ``[d_out, d_in / group]``.
        least: what is added to the numbers of a group, float32 like the scales; None for nothing.
    """

    scheme: Scheme
    codes: NDArray[np.int8] | NDArray[np.uint8]
    scale: Floats
    least: Floats | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """``(d_out, d_in)``."""
        rows, columns = self.codes.shape
        return rows, columns * 8 // self.scheme.bits

    def rows(self, chosen: Chosen) -> Floats:
        """Some rows of the matrix that is meant, ``[n, d_in]``."""
        codes, scale = self.codes[chosen], self.scale[chosen]
        if not self.scheme.group:
            return codes.astype(np.float32) * scale[:, None]
        values = self._values(codes)
        groups = values.reshape(len(codes), -1, self.scheme.group) * scale[..., None]
        if self.least is not None:
            groups += self.least[chosen][..., None]
        return np.asarray(groups.reshape(len(codes), -1), dtype=np.float32)

    def part(self, chosen: slice) -> "Codes":
        """Some rows as they lie."""
        least = None if self.least is None else self.least[chosen]
        return Codes(self.scheme, self.codes[chosen], self.scale[chosen], least)

    def _values(self, codes: NDArray[np.int8] | NDArray[np.uint8]) -> Floats:
        """What scales multiply."""
        if self.scheme.bits == 8:
            return codes.astype(np.float32)
        pairs = np.stack((codes & 15, codes >> 4), -1).reshape(len(codes), -1)
        if self.scheme.kind == "nf4":
            return np.array(NF4, dtype=np.float32)[pairs]
        return pairs.astype(np.float32) - np.float32(8 if self.scheme.kind == "int4" else 0)


Matrix: TypeAlias = Plain | Codes


def widened(raw: NDArray[Any]) -> Floats:
    """Floats of any type in float32; uint16 are the bits of bfloat16."""
    if raw.dtype == np.uint16:
        return (raw.astype(np.uint32) << 16).view(np.float32)
    return raw.astype(np.float32, copy=False)
