"""The bytes of one payload while they arrive: in memory where it is small, else in a file."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from fedloom.core.errors import TransferError
from fedloom.server.wire import MAX_CHUNK, Buffer

__all__ = ["Arriving", "MemoryPayload", "StagedPayload"]

_DISK_RETRY = 30.0
_NEW = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC


class Arriving(Protocol):
    """Bytes that arrive in order."""

    @property
    def received(self) -> int:
        """Bytes that have arrived."""
        ...

    @property
    def reserved(self) -> int:
        """Bytes of memory taken."""
        ...

    @property
    def wanted(self) -> int:
        """Bytes of memory that it takes while it arrives."""
        ...

    def claim(self) -> None:
        """Take that memory."""
        ...

    @property
    def due(self) -> bool:
        """Whether `write` should be called before the next `put`."""
        ...

    def put(self, data: Buffer) -> None:
        """Add bytes that are known to fit."""
        ...

    def write(self) -> None:
        """Bring what is due to the disk. Blocks."""
        ...

    def digest(self) -> str:
        """SHA-256 of everything that has arrived, hex. Blocks."""
        ...

    def whole(self) -> bytearray | Path:
        """The payload, once all of it has arrived; it is not to be changed after."""
        ...

    def rewind(self, offset: int) -> None:
        """Go back to an offset at or before `received`."""
        ...

    def rest(self) -> None:
        """Give back what memory can be given back without losing bytes. Blocks."""
        ...

    def lose(self) -> bool:
        """Give back all memory, with what only it holds; False where nothing at all is left."""
        ...


class MemoryPayload:
    """A payload in one buffer of its declared size."""

    due = False

    def __init__(self, size: int) -> None:
        self._buffer = bytearray()
        self._view = memoryview(self._buffer)
        self.received = self.reserved = 0
        self.wanted = size

    def claim(self) -> None:
        """The buffer, once."""
        if self.reserved < self.wanted:
            self._buffer = bytearray(self.wanted)
            self._view = memoryview(self._buffer)
            self.reserved = self.wanted

    def put(self, data: Buffer) -> None:
        """One copy into the buffer."""
        end = self.received + len(data)
        self._view[self.received : end] = data
        self.received = end

    def write(self) -> None:
        """Nothing."""

    def digest(self) -> str:
        """One call over the whole buffer, during which other threads run."""
        return hashlib.sha256(self._view[: self.received]).hexdigest()

    def whole(self) -> bytearray:
        """The buffer itself."""
        return self._buffer

    def rewind(self, offset: int) -> None:
        """What follows `offset` will be overwritten."""
        self.received = offset

    def rest(self) -> None:
        """Nothing: the memory is the payload."""

    def lose(self) -> bool:
        """False: nothing is left."""
        return False


class StagedPayload:
    """A payload in a file, written a block at a time; it goes on where an earlier process stopped.

    The file is not synced: whoever takes the payload over does that, once.

    Attributes:
        path: the file.
        received: bytes in the file and in the block.
    """

    def __init__(self, path: Path, size: int, *, block: int) -> None:
        """Take over the file at `path`, if there is one that can be the start of `size` bytes."""
        self.path = path
        self.wanted = min(size, block + MAX_CHUNK)
        self._limit = block
        self.reserved = 0
        self._block = bytearray()
        self._filled = 0
        self._written = path.stat().st_size if path.is_file() else 0
        self._hash, self._hashed = hashlib.sha256(), 0
        if self._written > size:
            self._truncate(0)

    @property
    def received(self) -> int:
        """Bytes in the file and in the block."""
        return self._written + self._filled

    def claim(self) -> None:
        """Room for a block, which is made when the first bytes come."""
        self.reserved = self.wanted

    @property
    def due(self) -> bool:
        """Whether the block is full: there is no room for a chunk after it."""
        return self._filled >= self._limit

    def put(self, data: Buffer) -> None:
        """Add to the block; writes it first if nobody did since it became full."""
        if self.due:
            self.write()
        if not self._block:
            self._block = bytearray(self.wanted)
        end = self._filled + len(data)
        memoryview(self._block)[self._filled : end] = data
        self._filled = end

    def write(self) -> None:
        """Append the block to the file in one write. Blocks.

        Raises:
            TransferError: the disk does not take it (``disk-full``); nothing is lost.
        """
        if not self._filled:
            return
        part = memoryview(self._block)[: self._filled]
        with _opened(self.path) as file:
            _write_at(file, part, self._written)
        if self._hashed == self._written:
            self._hash.update(part)
            self._hashed += self._filled
        self._written += self._filled
        self._filled = 0

    def digest(self) -> str:
        """Writes the block; what was not hashed on arrival is read back. Blocks.

        Raises:
            TransferError: the disk does not take it (``disk-full``).
        """
        self.write()
        with _opened(self.path) as file:
            while self._hashed < self._written:
                part = os.pread(file, min(self._limit, self._written - self._hashed), self._hashed)
                if not part:
                    raise OSError(f"{self.path} ends at {self._hashed}")
                self._hash.update(part)
                self._hashed += len(part)
        return self._hash.hexdigest()

    def whole(self) -> Path:
        """The file; the block is given back."""
        self._free()
        return self.path

    def rewind(self, offset: int) -> None:
        """Back within the block, or else the file is cut."""
        if offset >= self._written:
            self._filled = offset - self._written
        else:
            self._truncate(offset)

    def rest(self) -> None:
        """The block is written and given back."""
        self.write()
        self._free()

    def lose(self) -> bool:
        """True, where a part is in the file: what is only in the block has to come again."""
        self._free()
        return self._written > 0

    def _free(self) -> None:
        self._block, self._filled, self.reserved = bytearray(), 0, 0

    def _truncate(self, offset: int) -> None:
        with _opened(self.path) as file:
            os.ftruncate(file, offset)
        self._written, self._filled = offset, 0
        if self._hashed > offset:
            self._hash, self._hashed = hashlib.sha256(), 0


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    """A file descriptor; no link is followed to it. A disk that fails is one to come back to."""
    try:
        file = os.open(path, _NEW, 0o600)
        try:
            yield file
        finally:
            os.close(file)
    except OSError as error:
        text = f"the server's disk does not take the upload: {error.strerror or error}"
        raise TransferError(text, code="disk-full", retry_after=_DISK_RETRY) from error


def _write_at(file: int, data: memoryview, offset: int) -> None:
    while data:
        count = os.pwrite(file, data, offset)
        data, offset = data[count:], offset + count
