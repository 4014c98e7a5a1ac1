"""Tensors of a model folder as numpy arrays, mapped from their files, read where they are used.

A safetensors file is the length of a JSON header (8 bytes), the header, and the tensors
(https://github.com/huggingface/safetensors). numpy knows no bfloat16; such numbers are read as the
upper half of float32.
"""

import hashlib
import json
import mmap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedloom.backbones.folder import tensor_files
from fedloom.backbones.formats import NF4, SCHEMES, Scheme
from fedloom.backbones.notes import Stored, stored_in
from fedloom.core.errors import ModelError, nearest

__all__ = ["Codes", "Weights", "open_weights"]

Floats = NDArray[np.float32]
Raw = NDArray[np.uint8]

_MAX_HEADER = 100 << 20
_START = ""
_NAMES = {"I8": "int8", "U8": "uint8", "BF16": "bfloat16", "F16": "float16", "F32": "float32"}
_TYPES = {"F32": "<f4", "F16": "<f2", "BF16": "<u2", "F64": "<f8", "I8": "i1", "U8": "u1"}


@dataclass(frozen=True)
class Codes:
    """A matrix in 8 or 4 bits, as `fedloom.backbones.schemes.Packed` holds it.

    Attributes:
        scheme: its format.
        codes: int8 ``[d_out, d_in]``, or uint8 ``[d_out, d_in / 2]``.
        scale: float32 ``[d_out]`` or ``[d_out, d_in / group]``.
        least: what is added to the numbers of a group, float32 like the scales; None for nothing.
    """

    scheme: Scheme
    codes: NDArray[np.int8] | NDArray[np.uint8]
    scale: Floats
    least: Floats | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """``(d_out, d_in)``."""
        rows, columns = self.codes.shape
        return rows, columns * 8 // self.scheme.bits

    def rows(self, chosen: NDArray[np.int64] | slice) -> Floats:
        """Some rows of the matrix that is meant, ``[n, d_in]``."""
        codes, scale = self.codes[chosen], self.scale[chosen]
        if not self.scheme.group:
            return codes.astype(np.float32) * scale[:, None]
        values = self._values(codes)
        groups = values.reshape(len(codes), -1, self.scheme.group) * scale[..., None]
        if self.least is not None:
            groups += self.least[chosen][..., None]
        return np.asarray(groups.reshape(len(codes), -1), dtype=np.float32)

    def _values(self, codes: NDArray[np.int8] | NDArray[np.uint8]) -> Floats:
        """What scales multiply."""
        if self.scheme.bits == 8:
            return codes.astype(np.float32)
        pairs = np.stack((codes & 15, codes >> 4), -1).reshape(len(codes), -1)
        if self.scheme.kind == "nf4":
            return np.array(NF4, dtype=np.float32)[pairs]
        return pairs.astype(np.float32) - np.float32(8 if self.scheme.kind == "int4" else 0)


@dataclass(frozen=True)
class _Place:
    """Where a tensor lies in a mapped file."""

    file: Raw
    kind: str
    shape: tuple[int, ...]
    start: int
    stop: int

    def array(self) -> NDArray[Any]:
        return self.file[self.start : self.stop].view(_TYPES[self.kind]).reshape(self.shape)


@dataclass(frozen=True)
class Weights:
    """Named tensors on disk.

    Attributes:
        folder: where they lie.
        places: of each tensor, by its stored name.
        stored: the matrices that are stored in fewer bits.
        maps: the files.
    """

    folder: Path
    places: Mapping[str, _Place]
    stored: Mapping[str, Stored]
    maps: tuple[mmap.mmap, ...]

    def release(self) -> None:
        """Let go of what was read of the files; what is asked for again is read again."""
        for each in self.maps:
            if hasattr(each, "madvise"):
                each.madvise(mmap.MADV_DONTNEED)

    def find(self, names: Iterable[str]) -> Floats | None:
        """The tensor stored under the first of `names` that there is, in float32."""
        for name in names:
            if name in self.places:
                return _floats(self.places[name])
            if name in self.stored:
                return self._codes(name).rows(slice(None))
        return None

    def scheme(self, names: Iterable[str]) -> Scheme | None:
        """The format of the matrix under the first of `names`; None where it is not in one."""
        note = next((self.stored[name] for name in names if name in self.stored), None)
        return None if note is None else SCHEMES[note.scheme]

    def get(self, names: Iterable[str], shape: tuple[int, ...]) -> Floats:
        """The tensor stored under the first of `names` that there is.

        Raises:
            ModelError: there is none, or it has another shape.
        """
        wanted = tuple(names)
        found = self.find(wanted)
        if found is None:
            known = nearest(wanted[0], sorted(self.places)[:8])
            raise ModelError(f"{self.folder}: no tensor {wanted[0]!r}; {known}")
        return _of_shape(found, shape, wanted[0])

    def matrix(self, names: Iterable[str], shape: tuple[int, int]) -> Floats | Codes:
        """A matrix as it is stored: in fewer bits, or in float32.

        Raises:
            ModelError: there is none, it has another shape, or its bytes are not those that were
                written.
        """
        wanted = tuple(names)
        packed = next((name for name in wanted if name in self.stored), None)
        return self.get(wanted, shape) if packed is None else self._of(packed, shape)

    def _of(self, name: str, shape: tuple[int, int]) -> Codes:
        found = self._codes(name)
        if found.shape != shape:
            raise ModelError(f"tensor {name!r}: expected {shape}, got {found.shape}")
        return found

    def _codes(self, name: str) -> Codes:
        note = self.stored[name]
        names, scheme = note.tensors(name), SCHEMES[note.scheme]
        missing = [each for each in names if each not in self.places]
        if missing:
            raise ModelError(f"{self.folder}: no tensor {missing[0]!r}")
        codes, *floats = (self.places[each] for each in names)
        tensors = (codes, *floats)
        types = [_NAMES.get(each.kind, each.kind) for each in tensors]
        where = f"{self.folder}: tensor {name!r}"
        scheme.check_tensors(where, types, [each.shape for each in tensors])
        if Stored(note.scheme, *map(_digest, tensors)) != note:
            raise ModelError(f"{where} is damaged: fetch or quantize it again")
        return Codes(scheme, codes.array(), *map(_floats, floats))


def open_weights(folder: Path) -> Weights:
    """Map the tensors of a folder.

    Raises:
        ModelError: the folder has no safetensors file, or one that cannot be read.
    """
    places: dict[str, _Place] = {}
    stored: dict[str, Stored] = {}
    maps: list[mmap.mmap] = []
    for path in tensor_files(folder):
        try:
            header, whole = _mapped(path)
            maps.append(whole)
            file = np.frombuffer(whole, dtype=np.uint8)[header.pop(_START) :]
            notes = header.pop("__metadata__", {})
            places |= {name: _place(file, entry) for name, entry in header.items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ModelError(f"{path}: cannot read: {error}") from error
        stored |= stored_in(notes, path)
    return Weights(folder, places, stored, tuple(maps))


def _mapped(path: Path) -> tuple[dict[str, Any], mmap.mmap]:
    """The header, with the place where the tensors begin, and the whole file."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        if size > _MAX_HEADER:
            raise ValueError(f"a header of {size:,} bytes")
        header = json.loads(file.read(size))
        whole = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    return {**header, _START: 8 + size}, whole


def _place(file: Raw, entry: Mapping[str, Any]) -> _Place:
    shape = tuple(int(size) for size in entry["shape"])
    start, stop = (int(at) for at in entry["data_offsets"])
    if not 0 <= start <= stop <= len(file):
        raise ValueError("the file is shorter than its header says")
    return _Place(file, str(entry["dtype"]), shape, start, stop)


def _floats(place: _Place) -> Floats:
    if place.kind not in _TYPES:
        raise ModelError(f"a tensor of type {place.kind}: expected one of {', '.join(_TYPES)}")
    array = place.array()
    if place.kind == "BF16":
        return (array.astype(np.uint32) << 16).view(np.float32)
    return array.astype(np.float32, copy=False)


def _digest(place: _Place) -> str:
    return hashlib.sha256(place.file[place.start : place.stop].data).hexdigest()


def _of_shape(found: Floats, shape: tuple[int, ...], name: str) -> Floats:
    if found.shape != shape:
        raise ModelError(f"tensor {name!r}: expected {shape} from config.json, got {found.shape}")
    return found
