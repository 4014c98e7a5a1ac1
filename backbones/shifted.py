"""Stored matrices with other scales or least values: what was trained of them, and codes that stay.

Neither rounds: the formats that come of it keep scales and least values in float32.
"""

from dataclasses import replace

from torch import Tensor

from fedloom.backbones.formats import Scheme
from fedloom.backbones.schemes import Packed
from fedloom.core.errors import ConfigError

__all__ = ["raised", "raised_scheme", "rescaled", "rescaled_scheme"]


def rescaled_scheme(scheme: Scheme) -> Scheme:
    """The format of matrices in `scheme` whose scales may be any float32 numbers."""
    return replace(scheme, gguf=False, wide=True) if scheme.group else scheme


def rescaled(packed: Packed, change: Tensor | None) -> Packed:
    """``(s + ds) Q`` in place of ``s Q``, exactly.

    Kim et al., "Memory-Efficient Fine-Tuning of Compressed Large Language Models via sub-4-bit
    Integer Quantization" (PEQA), NeurIPS 2023, eq. 2.

    Args:
        packed: the matrix.
        change: ds, float32, of the shape of the scales; None for none.
    """
    scale = packed.scale.float()
    least = None if packed.least is None else packed.least.float()
    own = scale if change is None else scale + change
    return Packed(rescaled_scheme(packed.scheme), packed.codes, own, least)


def raised_scheme(scheme: Scheme) -> Scheme:
    """The format of matrices in `scheme` to whose groups any float32 number may be added.

    Raises:
        ConfigError: there is none: they are no 4-bit integers in groups.
    """
    if scheme.kind not in ("int4", "uint4"):
        text = "only 4-bit integers in groups have a format with least values"
        raise ConfigError(f"{scheme.name} takes no number for each group: {text}")
    return Scheme("uint4", scheme.group, wide=scheme.gguf or scheme.wide)


def raised(packed: Packed, change: Tensor | None) -> Packed:
    """``W~`` with a number added to each group: only the float32 sum of least values is rounded.

    Xu et al., "QA-LoRA: Quantization-Aware Low-Rank Adaptation of Large Language Models", ICLR
    2024, section 3.3. The codes of int4 are kept with 8 added, so that its least values are
    ``-8 s``.

    Args:
        packed: the matrix, in 4-bit integers.
        change: float32 ``[d_out, d_in / group]``; None for none.

    Raises:
        ConfigError: it is in another format.
    """
    scheme = raised_scheme(packed.scheme)
    least = -8 * packed.scale.float() if packed.least is None else packed.least.float()
    own = least if change is None else least + change
    scale = packed.scale.float() if scheme.wide else packed.scale
    return Packed(scheme, packed.codes, scale, own)
