"""A GGUF file as a model folder whose matrices keep the bits of their blocks.

Blocks of Q8_0, Q4_0 and Q4_1 are 32 numbers of a row: a float16 scale, in Q4_1 a float16 least
value, and the codes; those of 4 bits lie 16 apart in a byte, and become neighbours here.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedloom.backbones.block_files import write_blocks
from fedloom.backbones.cache import install
from fedloom.backbones.formats import SCHEMES, Scheme
from fedloom.backbones.gguf_checkpoint import facts_of, heads_of, name_of, turned, write_beside
from fedloom.backbones.notes import METHOD
from fedloom.backbones.quantize import Progress, rounded_of
from fedloom.backbones.schemes import Packed
from fedloom.core.errors import ModelError

__all__ = ["keep_blocks", "packed_of"]

_KEPT = {name.upper(): SCHEMES[name] for name in ("q8_0", "q4_0", "q4_1")}
_PLAIN = {"F32": torch.float32, "F16": torch.float16}


def keep_blocks(
    source: Path, out: Path, progress: Progress = lambda rounded, done, total: None
) -> Path:
    """Write a model folder of a GGUF file, exactly.

    Matrices in Q8_0, Q4_0 and Q4_1 keep their bits, floats their types.

    Args:
        source: the file, of a kind that `fedloom.backbones.gguf_checkpoint.convert` takes.
        out: the folder to make; left as it is where it is there.
        progress: told of each matrix; its error is zero.

    Returns:
        `out`.

    Raises:
        ModelError: the file cannot be read, is of another kind, or has a tensor in another format;
            the tensor is named.
    """
    try:
        from gguf import GGUFReader  # only where the extra is installed
    except ModuleNotFoundError:
        raise ModelError(f"{source}: reading it needs: pip install 'fedloom[gguf]'") from None
    try:
        reader = GGUFReader(source)
    except (OSError, ValueError, IndexError) as error:
        raise ModelError(f"{source}: not a GGUF file that can be read: {error}") from None
    facts = facts_of(reader, source)
    entries = {name_of(entry.name): entry for entry in reader.tensors}
    formats = _formats(entries.values(), source)

    def fill(into: Path) -> None:
        told = {"quant_method": METHOD, "format": formats[0], "outer": formats[-1]}
        tied = "lm_head.weight" not in entries
        write_beside(facts, into, tied=tied, more={"quantization_config": told})
        _write(entries, facts, into, progress)

    return install(out, fill)


def _formats(entries: Iterable[Any], source: Path) -> list[str]:
    """Of the matrices of layers, then of the others.

    Raises:
        ModelError: there are none in blocks, or a tensor's format is not one that is kept.
    """
    kinds = {entry.name: str(entry.tensor_type.name) for entry in entries}
    for name, kind in kinds.items():
        if kind not in _KEPT and kind not in _PLAIN:
            text = f"tensor {name!r} in {kind}; blocks are kept of {', '.join(_KEPT)}"
            raise ModelError(f"{source}: {text}")
    blocks = {name: _KEPT[kind].name for name, kind in kinds.items() if kind in _KEPT}
    if not blocks:
        raise ModelError(f"{source}: no tensor in blocks of {', '.join(_KEPT)}")
    order = sorted(blocks, key=lambda name: not name.startswith("blk."))
    return [blocks[name] for name in order]


def _write(
    entries: Mapping[str, Any], facts: Mapping[str, Any], into: Path, progress: Progress
) -> None:
    total = sum(entry.tensor_type.name in _KEPT for entry in entries.values())
    done = 0

    def read(name: str, block: str) -> Tensor | Packed:
        nonlocal done
        entry = entries[name]
        heads = heads_of(entry.name, facts)
        kind = str(entry.tensor_type.name)
        if kind in _PLAIN:
            plain = torch.from_numpy(np.array(entry.data)).to(_PLAIN[kind])
            return turned(plain, heads).contiguous()
        packed = packed_of(np.asarray(entry.data), _KEPT[kind])
        tensors = (turned(tensor, heads).contiguous() for tensor in packed.tensors)
        done += 1
        progress(rounded_of(name, block, packed, 0.0), done, total)
        return Packed(packed.scheme, *tensors)

    write_blocks(tuple(entries), read, into)


def packed_of(rows: NDArray[np.uint8], scheme: Scheme) -> Packed:
    """The matrix whose blocks these are.

    Args:
        rows: uint8 ``[d_out, bytes of a row]``.
        scheme: ``q8_0``, ``q4_0`` or ``q4_1``.
    """
    heads = 2 if scheme.raised else 1
    width = 2 * heads + scheme.group * scheme.bits // 8
    blocks = rows.reshape(len(rows), -1, width)
    floats = np.ascontiguousarray(blocks[..., : 2 * heads]).view(np.float16)
    scales = [torch.from_numpy(floats[..., i].copy()) for i in range(heads)]
    codes = blocks[..., 2 * heads :]
    if scheme.bits == 8:
        whole = np.ascontiguousarray(codes).view(np.int8)
    else:
        low, high = codes & 15, codes >> 4
        values = np.concatenate((low, high), -1)
        whole = values[..., 0::2] | (values[..., 1::2] << 4)
    return Packed(scheme, torch.from_numpy(whole.reshape(len(rows), -1).copy()), *scales)
