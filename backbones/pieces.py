"""Tensors copied from file to file as they are, without being loaded.

A file in the safetensors format is 8 bytes with the length of a JSON header, the header, the
tensors. It is written here, so that the same tensors have the same bytes, whoever writes them.
"""

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from fedloom.backbones.checkpoint import Checkpoint

__all__ = ["Piece", "pieces_of", "write_pieces"]

_BLOCK = 1 << 20
_ALIGNED = 8
"""The header's length is a multiple of so many bytes."""


@dataclass(frozen=True)
class Piece:
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


def pieces_of(source: Checkpoint, names: Collection[str]) -> dict[str, Piece]:
    """Where some tensors of a checkpoint lie, by name."""
    files = sorted({source.files[name] for name in names})
    found = {name: piece for file in files for name, piece in _listed(file)}
    return {name: found[name] for name in names}


def _listed(path: Path) -> Iterator[tuple[str, Piece]]:
    """The tensors of a file that safetensors has opened without complaint."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    for name, entry in header.items():
        if name != "__metadata__":
            first, last = entry["data_offsets"]
            shape = tuple(entry["shape"])
            yield name, Piece(path, 8 + length + first, last - first, entry["dtype"], shape)


def write_pieces(
    pieces: Mapping[str, Piece], path: Path, notes: Mapping[str, str] | None = None
) -> None:
    """Write tensors under the names that they are given here, piece by piece.

    Args:
        pieces: where the tensors lie now.
        path: of the new file.
        notes: what the header says beside them.
    """
    order = sorted(pieces.items(), key=lambda entry: (-entry[1].item, entry[0]))
    header: dict[str, object] = {"__metadata__": {"format": "pt", **(notes or {})}}
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


def _copy(piece: Piece, into: BinaryIO) -> None:
    with piece.path.open("rb") as file:
        file.seek(piece.start)
        left = piece.size
        while left and (block := file.read(min(left, _BLOCK))):
            into.write(block)
            left -= len(block)
