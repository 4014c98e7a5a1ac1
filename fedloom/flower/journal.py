"""What a ServerApp was told, in the order in which it was: a file that only grows.

Each entry is a line of JSON and the bytes that it counts, behind their lengths and a checksum. An
entry that a kill cut short is the last one, and is forgotten. Nothing in it is code.
"""

import fcntl
import json
import os
import struct
import zlib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from fedloom.core.errors import RunError

__all__ = ["Journal"]

_HEAD = struct.Struct("<IQI")
_LONGEST_LINE = 1 << 24


class Journal:
    """A journal in a file, by one process at a time.

    Args:
        path: of the file; made where it is missing.
        most: bytes that it may have; beyond, it is deleted and keeps nothing more.

    Raises:
        RunError: another process has it open, or it cannot be written.
    """

    def __init__(self, path: Path, *, most: int) -> None:
        self.path, self._most = path, most
        try:
            self._file = path.open("a+b")
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.close()
            raise RunError(f"{path}: another process is at this run") from None
        except OSError as error:
            raise RunError(f"{path}: cannot be written: {error.strerror}") from None
        self.kept = True

    def entries(self) -> Iterator[tuple[Mapping[str, Any], tuple[int, int]]]:
        """What is there: each entry's line, and where its bytes are; what is torn is cut off."""
        at, end = 0, os.fstat(self._file.fileno()).st_size
        while True:
            found = self._entry(at, end)
            if found is None:
                break
            line, place = found
            yield line, place
            at = sum(place)
        self._file.truncate(at)

    def bytes_of(self, place: tuple[int, int]) -> bytes:
        """The bytes of an entry."""
        return os.pread(self._file.fileno(), place[1], place[0])

    def add(self, line: Mapping[str, Any], data: bytes = b"", *, durable: bool = False) -> bool:
        """Add an entry; whether the journal still goes on: it fits, and the disk takes it.

        Args:
            line: plain values.
            data: bytes beside it.
            durable: wait until it is on the disk.
        """
        if not self.kept:
            return False
        text = json.dumps(line, separators=(",", ":")).encode()
        check = zlib.crc32(data, zlib.crc32(text))
        size = _HEAD.size + len(text) + len(data)
        if os.fstat(self._file.fileno()).st_size + size > self._most:
            self.delete()
            return False
        try:
            self._file.write(_HEAD.pack(len(text), len(data), check) + text)
            self._file.write(data)
            self._file.flush()
            if durable:
                os.fsync(self._file.fileno())
        except OSError:
            self.delete()
            return False
        return True

    def delete(self) -> None:
        """It is not needed, or has become too large."""
        self.kept = False
        self.path.unlink(missing_ok=True)
        with suppress(OSError):  # what could not be written is not missed
            self._file.close()

    def close(self) -> None:
        """Leave it for another start."""
        self._file.close()

    def _entry(self, at: int, end: int) -> tuple[Mapping[str, Any], tuple[int, int]] | None:
        handle = self._file.fileno()
        head = os.pread(handle, _HEAD.size, at)
        if len(head) < _HEAD.size:
            return None
        length, size, check = _HEAD.unpack(head)
        start = at + _HEAD.size + length
        if length > _LONGEST_LINE or start + size > end:
            return None
        text = os.pread(handle, length, at + _HEAD.size)
        if zlib.crc32(os.pread(handle, size, start), zlib.crc32(text)) != check:
            return None
        line: Mapping[str, Any] = json.loads(text)
        return line, (start, size)
