"""A model folder of some blocks only: what a device fetches that holds no more of the model.

The weights of a portion are a file in the safetensors format (8 bytes with the length of a JSON
header, the header, the tensors; https://huggingface.co/docs/safetensors). It is written here, so
that the same portion has the same bytes, and so the same address, whoever writes it.
"""

import json
import shutil
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import torch

from fedloom.backbones.cache import install
from fedloom.backbones.checkpoint import Checkpoint, open_checkpoint, read_config
from fedloom.backbones.files import is_wanted
from fedloom.backbones.fused import assembled
from fedloom.backbones.head import SAVED_HEADS
from fedloom.backbones.shape import Shape, read_shape
from fedloom.core.errors import ConfigError

__all__ = ["write_portion"]

_BLOCK = 1 << 20
_ALIGNED = 8
"""The header's length is a multiple of so many bytes."""


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
        for path in sorted(folder.iterdir()):
            if _is_beside(path):
                shutil.copyfile(path, into / path.name)
        pieces = {name: piece for file in _files(source, names) for name, piece in _pieces(file)}
        _write({name: pieces[name] for name in names}, into / "model.safetensors")

    return install(out, fill)


@dataclass(frozen=True)
class _Piece:
    """A tensor in a file.

    Attributes:
        path: of the file.
        start: of its bytes, from the beginning of the file.
        size: in bytes.
        dtype: as safetensors call it.
        shape: of the tensor.
    """

    path: Path
    start: int
    size: int
    dtype: str
    shape: tuple[int, ...]

    @property
    def item(self) -> int:
        """Bytes of a number, by which tensors are sorted: each then lies at a multiple of it."""
        count = 1
        for n in self.shape:
            count *= n
        return self.size // max(count, 1)


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
    assembled(Checkpoint(source.folder, noted, nowhere), shape, dtype=torch.float32, held=held)
    heads = {f"{name}.{part}" for name in SAVED_HEADS for part in ("weight", "bias")}
    return noted.read | (heads & source.files.keys() if "head" in held else set())


def _is_beside(path: Path) -> bool:
    """Whether a file comes along as it is: all that is read, but weights and their index."""
    weights = path.name.endswith((".safetensors", ".safetensors.index.json"))
    return path.is_file() and is_wanted(path.name) and not path.name.startswith(".") and not weights


def _files(source: Checkpoint, names: set[str]) -> list[Path]:
    return sorted({source.files[name] for name in names})


def _pieces(path: Path) -> Iterator[tuple[str, _Piece]]:
    """The tensors of a file that safetensors has opened without complaint."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    for name, entry in header.items():
        if name != "__metadata__":
            first, last = entry["data_offsets"]
            shape = tuple(entry["shape"])
            yield name, _Piece(path, 8 + length + first, last - first, entry["dtype"], shape)


def _write(pieces: Mapping[str, _Piece], path: Path) -> None:
    order = sorted(pieces.items(), key=lambda entry: (-entry[1].item, entry[0]))
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, piece in order:
        offsets = [offset, offset + piece.size]
        header[name] = {
            "dtype": piece.dtype,
            "shape": list(piece.shape),
            "data_offsets": offsets,
        }
        offset += piece.size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNED)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for _, piece in order:
            _copy(piece, file)


def _copy(piece: _Piece, into: BinaryIO) -> None:
    with piece.path.open("rb") as file:
        file.seek(piece.start)
        left = piece.size
        while left and (block := file.read(min(left, _BLOCK))):
            into.write(block)
            left -= len(block)
