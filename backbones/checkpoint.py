"""Tensors of a folder with ``model.safetensors``, whole or in shards."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from fedloom.backbones.folder import read_config, tensor_files
from fedloom.backbones.notes import Stored, stored_in
from fedloom.backbones.schemes import Packed
from fedloom.backbones.stored import checked
from fedloom.core.errors import ModelError, nearest

__all__ = ["Checkpoint", "open_checkpoint", "read_config"]


@dataclass(frozen=True)
class Checkpoint:
    """Named tensors on disk, read when asked for.

    Attributes:
        folder: where it lies.
        files: the file that holds each tensor, by the tensor's stored name.
        device: where tensors are read to.
        stored: the matrices that are stored in fewer bits, by the name of the matrix; `files` has
            their codes and scales.
    """

    folder: Path
    files: Mapping[str, Path]
    device: torch.device
    stored: Mapping[str, Stored] = field(default_factory=dict)

    def find(self, names: Iterable[str]) -> Tensor | None:
        """The tensor stored under the first of `names` that the checkpoint has.

        What is stored in fewer bits comes as the float32 numbers that it stands for.
        """
        for name in names:
            if name in self.files:
                return self._read(name)
            if name in self.stored:
                return self._packed(name).whole()
        return None

    def packed(self, names: Iterable[str]) -> Packed | None:
        """The matrix under the first of `names`, where it is stored in fewer bits.

        Raises:
            ModelError: its bytes are not those that were written.
        """
        found = next((name for name in names if name in self.stored), None)
        return None if found is None else self._packed(found)

    def _packed(self, name: str) -> Packed:
        stored = self.stored[name]
        tensors = [self._read(each) for each in stored.tensors(name)]
        return checked(name, stored, tensors, self.folder)

    def _read(self, name: str) -> Tensor:
        with safe_open(self.files[name], "pt") as file:
            tensor: Tensor = file.get_tensor(name)
        return tensor.to(self.device)

    def get(self, names: Iterable[str]) -> Tensor:
        """The tensor stored under the first of `names` that the checkpoint has.

        Raises:
            ModelError: it has none of them.
        """
        wanted = tuple(names)
        found = self.find(wanted)
        if found is None:
            known = nearest(wanted[0], sorted(self.files)[:8])
            raise ModelError(f"{self.folder}: no tensor {wanted[0]!r}; {known}")
        return found

    def digest(self) -> str:
        """SHA-256 (hex) over the contents of the files in the order of their names."""
        total = hashlib.sha256()
        for path in sorted(set(self.files.values())):
            with path.open("rb") as file:
                total.update(hashlib.file_digest(file, "sha256").digest())
        return total.hexdigest()


def open_checkpoint(folder: Path, device: torch.device) -> Checkpoint:
    """List the tensors of a folder.

    Raises:
        ModelError: the folder has no safetensors file, or one that cannot be read.
    """
    files: dict[str, Path] = {}
    stored: dict[str, Stored] = {}
    for path in tensor_files(folder):
        try:
            with safe_open(path, "pt") as file:
                files.update(dict.fromkeys(file.keys(), path))
                noted = file.metadata() or {}
        except Exception as error:  # safetensors raises its own error, and OSError
            raise ModelError(f"{path}: cannot read: {error}") from error
        stored |= stored_in(noted, path)
    return Checkpoint(folder, files, device, stored)
