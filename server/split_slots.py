"""Large values under names, in files: one stays whole while the next is written beside it."""

import os
import struct
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

from fedloom.core.body import word_sum
from fedloom.tuning.activation_codecs import Octets

__all__ = ["Slots"]

_PART = struct.Struct("<QQ")
"""Bytes of a part of a value, and their sum. Before the first stands which file it is, a byte."""


class Slots:
    """Two files for each name, written by turns.

    A value counts once its reference is kept, elsewhere; what was kept before is left alone until
    then. It survives the process and not, for the last values, the machine: a value that does not
    fit its reference any more is not there.

    Args:
        folder: of the files; made where it is not there.

    Raises:
        OSError: it cannot be made.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self._folder = folder
        self._kept: dict[str, int] = {}

    def write(self, name: str, parts: Sequence[Octets]) -> bytes:
        """Write a value beside the one that is kept under a name.

        Args:
            name: any.
            parts: of the value, one after the other.

        Returns:
            A reference, for `keep` and `read`.

        Raises:
            OSError: there is no room for it, or the file cannot be written.
        """
        slot = 1 - self._kept.get(name, 1)
        # Pages that are there already are written fastest: the file is not cut.
        file = os.open(self._path(name, slot), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        size = 0
        try:
            for part in parts:
                size += _write(file, memoryview(part), size)
        finally:
            os.close(file)
        return bytes([slot]) + b"".join(_PART.pack(len(part), word_sum(part)) for part in parts)

    def keep(self, name: str, reference: bytes) -> None:
        """The value of a name is this one, from now on."""
        self._kept[name] = reference[0]

    def read(self, name: str, reference: bytes) -> bytes | None:
        """A value; None where it is not there any more."""
        try:
            with self._path(name, reference[0]).open("rb") as file:
                parts = [(file.read(n), n, total) for n, total in _PART.iter_unpack(reference[1:])]
        except FileNotFoundError:
            return None
        whole = all((len(part), word_sum(part)) == (n, total) for part, n, total in parts)
        return b"".join(part for part, _, _ in parts) if whole else None

    def drop(self, name: str) -> None:
        """Nothing is kept under a name."""
        self._kept.pop(name, None)
        for slot in (0, 1):
            self._path(name, slot).unlink(missing_ok=True)

    def _path(self, name: str, slot: int) -> Path:
        return self._folder / f"{sha256(name.encode()).hexdigest()[:32]}.{slot}"


def _write(file: int, part: memoryview, offset: int) -> int:
    """Write all of a part; its size."""
    done = 0
    while done < len(part):
        done += os.pwrite(file, part[done:], offset + done)
    return done
