"""The weights of a model folder, a file for each block, written one after the other."""

import json
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from fedloom.backbones.blocks import block_names
from fedloom.backbones.checkpoint import Checkpoint
from fedloom.backbones.notes import Stored, notes_of
from fedloom.backbones.pieces import pieces_of, write_pieces
from fedloom.backbones.schemes import Packed
from fedloom.backbones.stored import stored_as

__all__ = ["write_blocks", "write_tensors"]


def write_blocks(
    names: Collection[str], read: Callable[[str, str], Tensor | Packed], into: Path
) -> None:
    """Write a file for each block of a model, and the index of all.

    Args:
        names: of the tensors, in transformers' naming.
        read: gives a tensor, or a matrix in fewer bits, by its name and its block. It is asked
            block by block, and for each name once.
        into: the folder.
    """
    by_block: dict[str, list[str]] = {}
    for name, block in block_names(tuple(names)).items():
        by_block.setdefault(block, []).append(name)
    index: dict[str, str] = {}
    for number, (block, own) in enumerate(sorted(by_block.items(), key=_depth), 1):
        tensors: dict[str, Tensor] = {}
        stored: dict[str, Stored] = {}
        for name in own:
            found = read(name, block)
            if isinstance(found, Tensor):
                tensors[name] = found
                continue
            stored[name] = stored_as(found)
            tensors |= zip(stored[name].tensors(name), found.tensors, strict=True)
        file = f"model-{number:05d}-of-{len(by_block):05d}.safetensors"
        write_tensors(tensors, stored, into / file)
        index |= dict.fromkeys(tensors, file)
    table = {"metadata": {}, "weight_map": dict(sorted(index.items()))}
    (into / "model.safetensors.index.json").write_text(json.dumps(table, indent=1))


def _depth(entry: tuple[str, list[str]]) -> tuple[int, int, str]:
    """Where a block stands: embeddings, layers by their numbers, what comes after."""
    block = entry[0]
    stack, _, number = block.rpartition(".")
    if number.isdecimal():
        return 1, int(number), stack
    return (0 if block == "embeddings" else 2), 0, block


def write_tensors(tensors: Mapping[str, Tensor], stored: Mapping[str, Stored], path: Path) -> None:
    """Write a file that has the same bytes whenever it is written."""
    draft = path.with_suffix(".draft")  # safetensors orders what a header notes as it likes
    save_file(dict(tensors), draft)
    place = Checkpoint(path.parent, dict.fromkeys(tensors, draft), torch.device("cpu"))
    write_pieces(pieces_of(place, tuple(tensors)), path, notes_of(stored))
    draft.unlink()
