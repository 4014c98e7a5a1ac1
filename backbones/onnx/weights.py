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
from fedloom.backbones.formats import SCHEMES, Scheme
from fedloom.backbones.notes import Stored, stored_in
from fedloom.backbones.onnx.matrices import Codes, Floats, Matrix, Plain, widened
from fedloom.core.errors import ModelError, nearest

__all__ = ["Weights", "open_weights"]

Raw = NDArray[np.uint8]

_MAX_HEADER = 100 << 20
_START = ""
_NAMES = {"I8": "int8", "U8": "uint8", "BF16": "bfloat16", "F16": "float16", "F32": "float32"}
_TYPES = {"F32": "<f4", "F16": "<f2", "BF16": "<u2", "F64": "<f8", "I8": "i1", "U8": "u1"}
_FED = ("F32", "F16", "BF16")


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

    def item(self, names: Iterable[str]) -> int:
        """Bytes of a number in floats under the first of `names`; 4 where it is in no floats."""
        kind = next((self.places[name].kind for name in names if name in self.places), "F32")
        return 2 if kind in ("F16", "BF16") else 4

    def get(self, names: Iterable[str], shape: tuple[int, ...]) -> Floats:
        """The tensor stored under the first of `names` that there is.

        Raises:
            ModelError: there is none, or it has another shape.
        """
        wanted = tuple(names)
        name = self._found(wanted)
        found = self.find((name,))
        assert found is not None
        return _of_shape(found, shape, wanted[0])

    def _found(self, names: tuple[str, ...]) -> str:
        name = next((n for n in names if n in self.places or n in self.stored), None)
        if name is None:
            known = nearest(names[0], sorted(self.places)[:8])
            raise ModelError(f"{self.folder}: no tensor {names[0]!r}; {known}")
        return name

    def matrix(
        self, names: Iterable[str], shape: tuple[int, int], *, turned: bool = False
    ) -> Matrix:
        """A matrix as it is stored: in fewer bits, or in floats.

        Args:
            names: it is stored under the first of them that there is.
            shape: ``(d_out, d_in)``.
            turned: floats lie as ``[d_in, d_out]``.

        Raises:
            ModelError: there is none, it has another shape, or its bytes are not those that were
                written.
        """
        wanted = tuple(names)
        packed = next((name for name in wanted if name in self.stored), None)
        if packed is not None:
            return self._of(packed, shape)
        place = self.places[self._found(wanted)]
        laid = shape[::-1] if turned else shape
        return Plain(_of_shape(_raw(place), laid, wanted[0]), turned)

    def has(self, names: Iterable[str]) -> bool:
        """Whether a tensor is stored under one of `names`."""
        return any(name in self.places or name in self.stored for name in names)

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


def _raw(place: _Place) -> NDArray[Any]:
    """As it is stored, but for types that graphs are not fed."""
    if place.kind not in _TYPES:
        raise ModelError(f"a tensor of type {place.kind}: expected one of {', '.join(_TYPES)}")
    array = place.array()
    return array if place.kind in _FED else array.astype(np.float32)


def _floats(place: _Place) -> Floats:
    return widened(_raw(place))


def _digest(place: _Place) -> str:
    return hashlib.sha256(place.file[place.start : place.stop].data).hexdigest()


def _of_shape(found: NDArray[Any], shape: tuple[int, ...], name: str) -> NDArray[Any]:
    if found.shape != shape:
        raise ModelError(f"tensor {name!r}: expected {shape} from config.json, got {found.shape}")
    return found
