"""LoftQ: a stored weight and the low-rank start beside it, found together.

Li et al., "LoftQ: LoRA-Fine-Tuning-Aware Quantization for Large Language Models", ICLR 2024,
algorithm 1: in turn the weight less the low-rank product is stored, and what that leaves of the
weight becomes the product. The start lies in the model's folder, in PEFT's format.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from fedloom.backbones.block_files import write_tensors
from fedloom.backbones.formats import Scheme
from fedloom.backbones.notes import scheme_in
from fedloom.backbones.schemes import Packed, pack
from fedloom.core.errors import ModelError, require

__all__ = ["STARTS", "LoftQ", "Pair", "alternate", "read_starts", "write_starts"]

Pair: TypeAlias = tuple[Tensor, Tensor]
"""A ``[r, d_in]`` and B ``[d_out, r]``, float32."""

STARTS = "adapter_model.safetensors"
"""The file of a folder that has A and B, beside PEFT's configuration."""
_CONFIG = "adapter_config.json"
_PREFIX, _A, _B = "base_model.model.", ".lora_A.weight", ".lora_B.weight"


@dataclass(frozen=True)
class LoftQ:
    """How much is sought.

    Attributes:
        rank: r of the products.
        steps: T, turns of the two; the paper's 5.
    """

    rank: int
    steps: int = 5

    def __post_init__(self) -> None:
        require(self.rank >= 1, "loftq", self.rank, "a rank of 1 or more")
        require(self.steps >= 1, "loftq steps", self.steps, "1 or more")


def alternate(weight: Tensor, scheme: Scheme, how: LoftQ) -> tuple[Packed, Pair]:
    """Store W as W~ with A and B such that ``W~ + B A`` is near to W.

    Of all turns the nearest is taken: the error may grow again from turn to turn.

    Args:
        weight: W ``[d_out, d_in]``.
        scheme: the format.
        how: rank and turns; the rank is at most the smaller side of W.

    Raises:
        ConfigError, ModelError: as of `pack`.
    """
    wide = weight.float()
    product, best = torch.zeros_like(wide), torch.inf
    found: tuple[Packed, Pair] | None = None
    for _ in range(how.steps):
        packed = pack(wide - product, scheme)
        left = wide - packed.whole()
        a, b = _nearest(left, how.rank)
        product = b @ a
        error = float((left - product).norm())
        if found is None or error < best:
            found, best = (packed, (a, b)), error
    assert found is not None
    return found


def _nearest(matrix: Tensor, rank: int) -> Pair:
    """A and B whose product is the nearest of that rank, its weight shared evenly between them."""
    wide = matrix.double()
    if wide.shape[0] > wide.shape[1]:
        b, a = _nearest(matrix.T, rank)
        return a.T.contiguous(), b.T.contiguous()
    values, vectors = torch.linalg.eigh(wide @ wide.T)  # squares of singular values; the left ones
    left = vectors[:, -rank:].flip(1)
    root = values[-rank:].flip(0).clamp_min(1e-30) ** 0.25
    a, b = left.T @ wide / root[:, None], left * root
    missing = rank - a.shape[0]  # the rank is above the smaller side's
    if missing > 0:
        a = torch.cat((a, a.new_zeros(missing, a.shape[1])))
        b = torch.cat((b, b.new_zeros(b.shape[0], missing)), 1)
    return a.float().contiguous(), b.float().contiguous()


def write_starts(into: Path, starts: Mapping[str, Pair], how: LoftQ, *, transposed: bool) -> None:
    """Write A and B of every module, as PEFT loads them: their product is added as it is.

    Args:
        into: the folder.
        starts: by module path.
        how: says the rank.
        transposed: the checkpoint keeps weights as ``[d_in, d_out]``.
    """
    tensors: dict[str, Tensor] = {}
    for name, (a, b) in starts.items():
        tensors |= {f"{_PREFIX}{name}{_A}": a, f"{_PREFIX}{name}{_B}": b}
    config = {
        "peft_type": "LORA",
        "base_model_name_or_path": None,
        "bias": "none",
        "fan_in_fan_out": transposed,
        "inference_mode": False,
        "lora_alpha": how.rank,
        "lora_dropout": 0.0,
        "r": how.rank,
        "target_modules": sorted(starts),
        "task_type": None,
    }
    (into / _CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    write_tensors(tensors, {}, into / STARTS)


def read_starts(folder: Path) -> dict[str, Pair]:
    """A and B by module path, as `write_starts` wrote them; nothing where there are none.

    Of a model that is not in fewer bits, an adapter beside it is somebody's own.

    Raises:
        ModelError: the file cannot be read, or is of another kind.
    """
    path = folder / STARTS
    if not path.is_file() or scheme_in(folder) is None:
        return {}
    try:
        tensors = load_file(path)
        names = [name.removeprefix(_PREFIX) for name in tensors if name.endswith(_A)]
        modules = [name.removesuffix(_A) for name in names]
        return {m: (tensors[f"{_PREFIX}{m}{_A}"], tensors[f"{_PREFIX}{m}{_B}"]) for m in modules}
    except (OSError, SafetensorError, KeyError) as error:
        raise ModelError(f"{path}: no start of LoRA that can be read: {error}") from None
