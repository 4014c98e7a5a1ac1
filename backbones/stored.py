"""A stored matrix as it lies in a file, looked at before it is used."""

import hashlib
from pathlib import Path

import torch
from torch import Tensor

from fedloom.backbones.notes import METHOD, Stored, notes_of, scheme_in, stored_in
from fedloom.backbones.schemes import SCHEMES, Packed
from fedloom.core.errors import ModelError

__all__ = ["METHOD", "Stored", "checked", "digest_of", "notes_of", "scheme_in", "stored_in"]


def checked(name: str, stored: Stored, codes: Tensor, scale: Tensor, folder: Path) -> Packed:
    """The matrix, if codes and scales are those that were written.

    Raises:
        ModelError: they are others, or do not fit each other.
    """
    scheme = SCHEMES[stored.scheme]
    kinds = torch.uint8 if scheme.group else torch.int8, getattr(torch, scheme.scale_type)
    whole = Packed(scheme, codes, scale)
    fits = codes.ndim == 2 and (codes.dtype, scale.dtype) == kinds
    if not fits or tuple(scale.shape) != scheme.scales(*whole.shape):
        raise ModelError(f"{folder}: tensor {name!r}: not {scheme.name}: {tuple(codes.shape)}")
    if codes.is_meta:
        return whole
    if (digest_of(codes), digest_of(scale)) != (stored.codes, stored.scale):
        raise ModelError(f"{folder}: tensor {name!r} is damaged: fetch or quantize it again")
    return whole


def digest_of(tensor: Tensor) -> str:
    """SHA-256 (hex) of the bytes of a tensor."""
    plain = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
    return hashlib.sha256(plain.numpy().data).hexdigest()
