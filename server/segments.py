"""Payloads on the disk: appended to large files, so that one flush serves many of them.

A payload that came in a file of its own is taken over as it is. Which bytes count is written in
the ledger; whatever else lies here was never acknowledged, and goes when the folder is opened.
"""

import errno
import os
import threading
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeAlias

from fedloom.core.durable import sync
from fedloom.core.errors import RunError
from fedloom.server.failpoints import reach
from fedloom.server.records import Place

__all__ = ["Bytes", "Segments"]

Bytes: TypeAlias = bytes | bytearray | memoryview

_NOWHERE = Place("", 0, 0)
_FIRST = 8 << 20
"""Bytes of the first segment; each that follows has twice those of the one before."""
_APPENDED, _ADOPTED = ".segment", ".payload"


class Segments:
    """The payloads of a folder. One thread appends at a time; any thread reads.

    Args:
        folder: made if it is not there.
        kept: where payloads lie that count; everything else is removed or written over.
        size: bytes of a segment at most; less is taken where little came yet, or the disk has less.
        spare: bytes of the disk that are left to everything else.

    Raises:
        RunError: the folder cannot be used.
    """

    def __init__(
        self,
        folder: Path,
        kept: Iterable[Place],
        *,
        size: int = 256 << 20,
        spare: int = 32 << 20,
    ) -> None:
        self.folder = folder
        self._size = size
        self._spare = spare
        self._lock = threading.Lock()
        self._handles: dict[str, int] = {}
        self._unsynced: set[str] = set()
        self._renamed = False
        self._current = ""
        self._offset = 0
        self._end = 0
        self._number = 0
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._recover(list(kept))
        except OSError as error:
            raise RunError(f"{folder}: cannot be used: {error}") from error

    def append(self, payloads: Sequence[Bytes | Path]) -> list[Place]:
        """Write payloads one after the other; they are safe after `sync`, not before.

        Args:
            payloads: bytes, or a file whose bytes end up here under another name.

        Returns:
            Where each of them lies, in their order.

        Raises:
            OSError: they were not written; the disk may be full. Files are where they were.
        """
        places: list[Place] = []
        name, offset = self._current, self._offset
        try:
            for payload in payloads:
                if isinstance(payload, Path):
                    places.append(self._adopt(payload))
                else:
                    places.append(self._write(memoryview(payload)))
        except OSError:
            if self._current == name:
                self._offset = offset
            self.undo(payloads, places)
            raise
        return places

    def undo(self, payloads: Sequence[Bytes | Path], places: Sequence[Place]) -> None:
        """Put files back that an append took over, as far as that can be done."""
        for payload, place in zip(payloads, places, strict=False):
            if isinstance(payload, Path):
                with suppress(OSError):
                    self._close(place.segment)
                    os.rename(self.folder / place.segment, payload)

    def sync(self) -> None:
        """Wait until everything appended is on the disk.

        Raises:
            OSError: it is not, or not all of it; nothing is appended to that file again, since
                a kernel may forget what it could not write.
        """
        try:
            for name in sorted(self._unsynced):
                os.fdatasync(self._handle(name))
            if self._renamed:
                sync(self.folder)
        except OSError:
            self._current = ""
            raise
        finally:
            self._unsynced.clear()
        self._renamed = False

    def read(self, place: Place) -> bytes:
        """The bytes at a place.

        Raises:
            RunError: the file is not there, or shorter than the ledger says.
        """
        if not place.length:
            return b""
        try:
            found = self._read(place)
        except OSError as error:
            raise RunError(f"{self.folder / place.segment}: cannot be read: {error}") from error
        if len(found) < place.length:
            text = f"{len(found)} of {place.length} bytes at {place.offset}"
            raise RunError(f"{self.folder / place.segment}: {text}")
        return found

    def drop_except(self, names: Collection[str], *, over: bool = False) -> None:
        """Remove every file but those named. Nobody may be appending, or reading the others.

        The segment in use is not removed but written over, from its start: to allot a new one to
        each round, and remove it, would cost more than a small round does.

        Args:
            names: what stays.
            over: whether nothing follows: then the segment in use goes, too.

        Raises:
            OSError: one of them could not be removed.
        """
        if self._current not in names:
            self._current = self._current if self._end <= self._size and not over else ""
            self._offset = 0
        for path in sorted(self.folder.iterdir()):
            if path.name not in names and path.name != self._current:
                self._close(path.name)
                self._unsynced.discard(path.name)
                path.unlink(missing_ok=True)
                reach("segment-dropped")

    def close(self) -> None:
        """Let go of the files."""
        for name in list(self._handles):
            self._close(name)

    def _read(self, place: Place) -> bytes:
        if place.segment.endswith(_ADOPTED):  # of them there may be more than handles
            with (self.folder / place.segment).open("rb") as file:
                return file.read(place.length)
        return _read_all(self._handle(place.segment), place.length, place.offset)

    def _recover(self, kept: list[Place]) -> None:
        """Remove what no place names, and go on behind the last one that does."""
        self.drop_except({place.segment for place in kept})
        names = sorted(path.name for path in self.folder.iterdir())
        self._number = max((int(name.partition(".")[0]) for name in names), default=0)
        appended = [name for name in names if name.endswith(_APPENDED)]
        if appended:
            self._current = appended[-1]
            ends = (p.offset + p.length for p in kept if p.segment == self._current)
            self._offset = max(ends)
            self._end = os.fstat(self._handle(self._current)).st_size

    def _write(self, data: memoryview) -> Place:
        size = data.nbytes
        if not size:
            return _NOWHERE
        if not self._current or self._offset + size > self._end:
            self._make(size)
        name, offset = self._current, self._offset
        _write_all(self._handle(name), data.cast("B"), offset)
        self._unsynced.add(name)
        self._offset += size
        reach("payload-written")
        return Place(name, offset, size)

    def _make(self, needed: int) -> None:
        """Begin a segment whose bytes are already allotted: writing then changes no metadata."""
        disk = os.statvfs(self.folder)
        room = disk.f_bavail * disk.f_frsize - self._spare
        usual = min(self._size, max(_FIRST, 2 * self._end))
        size = min(max(usual, needed), room)
        if size < needed:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.folder))
        name = self._name(_APPENDED)
        path = self.folder / name
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            _allot(handle, size)
        except OSError:
            os.close(handle)
            path.unlink()
            raise
        with self._lock:
            self._handles[name] = handle
        self._renamed = True
        self._current, self._offset, self._end = name, 0, size
        reach("segment-made")

    def _adopt(self, path: Path) -> Place:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fdatasync(handle)
            length = os.fstat(handle).st_size
        finally:
            os.close(handle)
        name = self._name(_ADOPTED)
        os.rename(path, self.folder / name)
        self._renamed = True
        reach("payload-adopted")
        return Place(name, 0, length)

    def _name(self, ending: str) -> str:
        self._number += 1
        return f"{self._number:08d}{ending}"

    def _handle(self, name: str) -> int:
        with self._lock:
            if name not in self._handles:
                self._handles[name] = os.open(self.folder / name, os.O_RDWR | os.O_CLOEXEC)
            return self._handles[name]

    def _close(self, name: str) -> None:
        with self._lock:
            handle = self._handles.pop(name, None)
        if handle is not None:
            os.close(handle)


def _write_all(handle: int, data: memoryview, offset: int) -> None:
    while data:
        written = os.pwrite(handle, data, offset)
        data, offset = data[written:], offset + written


def _read_all(handle: int, length: int, offset: int) -> bytes:
    """Up to `length` bytes; one call reads no more than 2 GiB."""
    found = os.pread(handle, length, offset)
    while found and len(found) < length:
        more = os.pread(handle, length - len(found), offset + len(found))
        if not more:
            break
        found += more
    return found


def _allot(handle: int, size: int) -> None:
    """Give a file its bytes; where the file system cannot, its length at least."""
    try:
        os.posix_fallocate(handle, 0, size)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
            raise
        os.ftruncate(handle, size)
