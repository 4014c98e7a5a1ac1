"""A stored matrix as it lies in a file, looked at before it is used."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from fedloom.backbones.formats import SCHEMES
from fedloom.backbones.notes import Stored
from fedloom.backbones.schemes import Packed
from fedloom.core.errors import ModelError

__all__ = ["checked", "digest_of", "stored_as"]


def checked(name: str, stored: Stored, tensors: Sequence[Tensor], folder: Path) -> Packed:
    """The matrix, if its tensors, as `Stored.tensors` orders them, are those that were written.

    Raises:
        ModelError: they are others, or do not fit each other.
    """
    scheme = SCHEMES[stored.scheme]
    types = [str(tensor.dtype).removeprefix("torch.") for tensor in tensors]
    scheme.check_tensors(f"{folder}: tensor {name!r}", types, [tuple(t.shape) for t in tensors])
    whole = Packed(scheme, *tensors)
    if whole.codes.is_meta:
        return whole
    if stored_as(whole) != stored:
        raise ModelError(f"{folder}: tensor {name!r} is damaged: fetch or quantize it again")
    return whole


def stored_as(packed: Packed) -> Stored:
    """How a matrix is stored."""
    return Stored(packed.scheme.name, *(digest_of(tensor) for tensor in packed.tensors))


def digest_of(tensor: Tensor) -> str:
    """SHA-256 (hex) of the bytes of a tensor."""
    plain = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
    return hashlib.sha256(plain.numpy().data).hexdigest()
