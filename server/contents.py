"""What clients may download, by its SHA-256: bytes in memory and files that lie where they lie.

A content is hashed once, and so are its chunks: a thousand downloads of a model cost a thousand
times the network, not a thousand times the checksums.
"""

import hashlib
import os
import zlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from fedloom.core.errors import TransferError
from fedloom.server.wire import MAX_CHUNK

__all__ = ["Content", "Contents", "Piece"]

Piece: TypeAlias = tuple[int, int, memoryview]
"""Offset, CRC-32 and data (at most `MAX_CHUNK` bytes) of a part of a content."""

_READ = 16 * MAX_CHUNK
_AFTER_CUT = 64 * 1024
"""A cut loses the chunk that it hits: who goes on with a content gets smaller ones."""


@dataclass(frozen=True)
class Content:
    """The address of a content.

    Attributes:
        sha256: hex.
        size: bytes.
    """

    sha256: str
    size: int


@dataclass(frozen=True)
class _Identity:
    """How a file is known again without reading it."""

    path: Path
    size: int
    mtime_ns: int


@dataclass(frozen=True)
class _Stored:
    """A content, the CRC-32 of each of its chunks, and where its bytes are."""

    content: Content
    crcs: tuple[int, ...]
    source: bytes | _Identity


class Contents:
    """Everything that is offered for download. May be used from several threads."""

    def __init__(self) -> None:
        self._stored: dict[str, _Stored] = {}
        self._files: dict[_Identity, Content] = {}

    def put_bytes(self, data: bytes) -> Content:
        """Offer bytes, which stay in memory until they are forgotten. Blocks while it hashes."""
        content = Content(hashlib.sha256(data).hexdigest(), len(data))
        if content.sha256 not in self._stored:
            self._stored[content.sha256] = _Stored(content, tuple(_crcs(data)), data)
        return content

    def put_file(self, path: Path) -> Content:
        """Offer a file as it is now. Blocks while it reads it, once for each state of the file.

        Raises:
            TransferError: it cannot be read, or changed meanwhile (``no-such-content``).
        """
        try:
            with path.open("rb", buffering=0) as file:
                identity = _identity(path, file.fileno())
                known = self._files.get(identity)
                if known is not None and known.sha256 in self._stored:
                    return known
                stored = _hashed(identity, file.fileno())
                unchanged = _identity(path, file.fileno()) == identity
        except OSError as error:
            raise TransferError(f"{path}: {error.strerror}", code="no-such-content") from error
        if not unchanged or stored.content.size != identity.size:
            raise TransferError(f"{path}: it changes while it is read", code="no-such-content")
        self._stored[stored.content.sha256] = stored
        self._files[identity] = stored.content
        return stored.content

    def open(self, sha256: str, offset: int = 0) -> Iterator[Piece]:
        """The pieces of a content from `offset` to its end; at the end there are none.

        They go on coming where the content is forgotten meanwhile. Taking the next piece of a file
        reads it from the disk.

        Raises:
            TransferError: nothing of this address is offered, or its file was changed or removed
                (``no-such-content``); the offset is beyond the end (``chunk-order``).
        """
        stored = self._stored.get(sha256)
        if stored is None:
            raise TransferError("nothing of this address is offered", code="no-such-content")
        if not 0 <= offset <= stored.content.size:
            text = f"offset {offset} of a content of {stored.content.size} bytes"
            raise TransferError(text, code="chunk-order")
        if isinstance(stored.source, bytes):
            return _from_bytes(stored, memoryview(stored.source), offset)
        _check_same(stored.source)
        return _from_file(stored, stored.source.path, offset)

    def forget(self, sha256: str) -> None:
        """Offer a content no longer."""
        self._stored.pop(sha256, None)

    def retain(self, kept: Collection[str]) -> None:
        """Forget every content in memory, such as an old model, that is not among these."""
        for sha256, stored in list(self._stored.items()):
            if isinstance(stored.source, bytes) and sha256 not in kept:
                self.forget(sha256)


def _check_same(source: _Identity) -> None:
    try:
        same = _identity(source.path, source.path) == source
    except OSError as error:
        text = f"{source.path}: {error.strerror}"
        raise TransferError(text, code="no-such-content") from error
    if not same:
        text = f"{source.path}: it was changed since it was offered"
        raise TransferError(text, code="no-such-content")


def _identity(path: Path, file: int | Path) -> _Identity:
    state = os.stat(file)
    return _Identity(path, state.st_size, state.st_mtime_ns)


def _crcs(data: bytes) -> Iterator[int]:
    view = memoryview(data)
    return (zlib.crc32(view[at : at + MAX_CHUNK]) for at in range(0, len(data), MAX_CHUNK))


def _hashed(identity: _Identity, file: int) -> _Stored:
    """One pass over a file: its digest, and the checksums of its chunks."""
    digest, crcs, size = hashlib.sha256(), list[int](), 0
    while part := _read(file, _READ, size):
        digest.update(part)
        crcs += _crcs(part)
        size += len(part)
    return _Stored(Content(digest.hexdigest(), size), tuple(crcs), identity)


def _read(file: int, size: int, offset: int) -> bytes:
    """So many bytes, or up to the end of the file: a read alone may give less."""
    data = os.pread(file, size, offset)
    while len(data) < size and (more := os.pread(file, size - len(data), offset + len(data))):
        data += more
    return data


def _spans(size: int, offset: int) -> Iterator[tuple[int, int]]:
    """Beginnings and ends of chunks; all but the first begin at a multiple of their length."""
    length = _AFTER_CUT if offset else MAX_CHUNK
    while offset < size:
        end = min(offset - offset % length + length, size)
        yield offset, end
        offset = end


def _piece(stored: _Stored, offset: int, data: memoryview) -> Piece:
    chunk, inside = divmod(offset, MAX_CHUNK)
    whole = not inside and len(data) == min(MAX_CHUNK, stored.content.size - offset)
    return offset, stored.crcs[chunk] if whole else zlib.crc32(data), data


def _from_bytes(stored: _Stored, data: memoryview, offset: int) -> Iterator[Piece]:
    for start, end in _spans(len(data), offset):
        yield _piece(stored, start, data[start:end])


def _from_file(stored: _Stored, path: Path, offset: int) -> Iterator[Piece]:
    with path.open("rb", buffering=0) as file:
        for start, end in _spans(stored.content.size, offset):
            data = _read(file.fileno(), end - start, start)
            if len(data) < end - start:
                raise TransferError(f"{path}: it became shorter", code="no-such-content")
            yield _piece(stored, start, memoryview(data))
