"""A model folder of some blocks only: what a device fetches that holds no more of the model.

The same portion has the same bytes, and so the same address, whoever writes it.
"""

import shutil
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from fedloom.backbones.assemble import Source
from fedloom.backbones.cache import install
from fedloom.backbones.checkpoint import Checkpoint, open_checkpoint, read_config
from fedloom.backbones.files import is_wanted
from fedloom.backbones.fused import assembled
from fedloom.backbones.head import SAVED_HEADS
from fedloom.backbones.loftq import STARTS
from fedloom.backbones.notes import notes_of
from fedloom.backbones.pieces import pieces_of, write_pieces
from fedloom.backbones.shape import Shape, read_shape
from fedloom.core.errors import ConfigError

__all__ = ["copy_beside", "write_portion"]


def write_portion(folder: Path, out: Path, held: Collection[str]) -> Path:
    """Write what `fedloom.backbones.fused.load_fused` reads of some blocks of a model.

    Tensors keep their names, types and bytes, and are copied piece by piece: memory does not grow
    with the model. Configuration and tokenizer come along.

    Args:
        folder: the whole model, as `load_fused` reads it.
        out: the folder to make; left as it is where it is there.
        held: the blocks, as for `load_fused`. With ``head`` comes the checkpoint's own classifier.

    Returns:
        `out`.

    Raises:
        ConfigError: the model has no block of such a name.
        ModelError: the folder holds no model that can be cut, or the disk does not take it.
    """
    shape = read_shape(read_config(folder))
    _check(shape, held)
    source = open_checkpoint(folder, torch.device("cpu"))
    names = _wanted(source, shape, held)

    def fill(into: Path) -> None:
        copy_beside(folder, into)
        if source.stored and (folder / STARTS).is_file():  # of all blocks: an adapter has them all
            shutil.copyfile(folder / STARTS, into / STARTS)
        stored = {name: how for name, how in source.stored.items() if how.tensors(name)[0] in names}
        notes = notes_of(stored)
        write_pieces(pieces_of(source, names), into / "model.safetensors", notes)

    return install(out, fill)


@dataclass(frozen=True)
class _Noted(Mapping[str, Path]):
    """Files by tensor, and which of the tensors were read."""

    files: Mapping[str, Path]
    read: set[str] = field(default_factory=set)

    def __getitem__(self, name: str) -> Path:
        self.read.add(name)
        return self.files[name]

    def __contains__(self, name: object) -> bool:
        return name in self.files

    def __iter__(self) -> Iterator[str]:
        return iter(self.files)

    def __len__(self) -> int:
        return len(self.files)


def _check(shape: Shape, held: Collection[str]) -> None:
    known = ["embeddings", *(f"layer.{i}" for i in range(shape.depth)), "final", "head"]
    for name in held:
        if name not in known:
            text = f"embeddings, layer.0 to layer.{shape.depth - 1}, final, head"
            raise ConfigError(f"block {name!r}: this model has {text}")


def _wanted(source: Checkpoint, shape: Shape, held: Collection[str]) -> set[str]:
    """Names of the tensors that loading the blocks reads, found by loading them to nowhere."""
    noted, nowhere = _Noted(source.files), torch.device("meta")
    empty = replace(source, files=noted, device=nowhere)
    assembled(Source(empty, shape, torch.float32), held)
    heads = {f"{name}.{part}" for name in SAVED_HEADS for part in ("weight", "bias")}
    return noted.read | (heads & source.files.keys() if "head" in held else set())


def copy_beside(folder: Path, into: Path) -> None:
    """Copy all files of a model that are read, but its weights and their index."""
    for path in sorted(folder.iterdir()):
        if _is_beside(path):
            shutil.copyfile(path, into / path.name)


def _is_beside(path: Path) -> bool:
    """Whether a file comes along as it is: all that is read, but weights and their index."""
    weights = path.name.endswith((".safetensors", ".safetensors.index.json"))
    return path.is_file() and is_wanted(path.name) and not path.name.startswith(".") and not weights
