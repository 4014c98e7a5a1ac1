"""What the server hands out, kept by the SHA-256 of its bytes; a cut download goes on."""

import hashlib
import os
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, TypeAlias
from zlib import crc32

from fedloom.backbones.cache import install
from fedloom.core.durable import sync
from fedloom.core.errors import TransferError
from fedloom.protos.federation_pb2 import Chunk

__all__ = ["Contents", "Source"]

Source: TypeAlias = Callable[[str, int], Iterator[Chunk]]
"""The chunks of the content with a SHA-256 from an offset on."""

_BLOCK = 1 << 20
_HEX = frozenset("0123456789abcdef")


class Contents:
    """A folder of contents: ``blobs/<sha256>``, those on their way ``blobs/<sha256>.partial``.

    Args:
        folder: where; made when missing.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._blobs = folder / "blobs"
        self._blobs.mkdir(parents=True, exist_ok=True)

    def path(self, sha256: str) -> Path:
        """Where a content is, or will be.

        Raises:
            TransferError: it is no SHA-256 in hex.
        """
        if len(sha256) != 64 or not _HEX.issuperset(sha256):
            raise TransferError(f"{sha256!r:.80}: not a SHA-256 in hex", code="digest")
        return self._blobs / sha256

    def has(self, sha256: str, size: int) -> bool:
        """Whether a content is here, whole."""
        path = self.path(sha256)
        return path.is_file() and path.stat().st_size == size

    def fetch(self, sha256: str, size: int, source: Source) -> Path:
        """The file of a content, downloaded first where it is not here yet.

        Whatever a cut leaves is kept, and the next call goes on from there.

        Args:
            sha256: its address, hex.
            size: its bytes.
            source: asked for the bytes that are missing.

        Raises:
            TransferError: it did not come whole (``chunk-order``, ``chunk-crc``, ``too-large``,
                ``too-short``), or is another (``digest``: the next call starts again), or does not
                fit on the disk (``disk-full``). Trying again helps.
        """
        path = self.path(sha256)
        if self.has(sha256, size):
            os.utime(path)  # the newest are kept longest
            return path
        partial = path.with_suffix(".partial")
        try:
            with partial.open("a+b") as file:
                found = _receive(file, sha256, size, source)
                file.flush()
                os.fsync(file.fileno())
            if found != sha256:
                partial.unlink()
                text = f"content {sha256[:12]} arrived as {found[:12]}; it is fetched again"
                raise TransferError(text, code="digest", retry_after=0.0)
            os.replace(partial, path)
            sync(self._blobs)
        except OSError as error:
            text = f"{error.filename or partial}: {error.strerror or error}"
            raise TransferError(text, code="disk-full", retry_after=30.0) from None
        return path

    def arrange(self, name: str, files: Mapping[str, str]) -> Path:
        """A folder in which contents that are here stand under names of their own.

        Args:
            name: of the folder.
            files: SHA-256 by file name.

        Raises:
            ModelError: the disk does not take it.
        """
        folder = self._folder / "folders" / name
        if folder.is_dir() and not all((folder / name).is_file() for name in files):
            shutil.rmtree(folder)

        def fill(into: Path) -> None:
            for file, sha256 in files.items():
                _place(self.path(sha256), into / file)

        return install(folder, fill)

    def clean(self, keep: Collection[str], *, limit: int = 0) -> int:
        """Delete the oldest contents until those not to be kept take at most `limit` bytes.

        Returns:
            Bytes deleted.
        """
        found = [p for p in self._blobs.iterdir() if p.name.partition(".")[0] not in keep]
        ages = sorted((p.stat().st_mtime, p.stat().st_size, p) for p in found)
        over = sum(size for _, size, _ in ages) - limit
        deleted = 0
        for _, size, path in ages:
            if deleted >= over:
                break
            with suppress(FileNotFoundError):
                path.unlink()
            deleted += size
        return deleted


def _receive(file: BinaryIO, sha256: str, size: int, source: Source) -> str:
    """Append what is missing to a partial file; the SHA-256 of all that is then in it."""
    digest = hashlib.sha256()
    file.seek(0)
    while block := file.read(_BLOCK):
        digest.update(block)
    have = file.tell()
    if have > size:
        file.truncate(0)
        digest, have = hashlib.sha256(), 0
    if have < size:
        for chunk in source(sha256, have):
            _check(chunk, have, size)
            file.write(chunk.data)
            digest.update(chunk.data)
            have += len(chunk.data)
    if have < size:
        text = f"content {sha256[:12]}: {have:,} of {size:,} bytes came"
        raise TransferError(text, code="too-short", retry_after=0.0)
    return digest.hexdigest()


def _check(chunk: Chunk, have: int, size: int) -> None:
    code = ""
    if chunk.offset != have:
        code, text = "chunk-order", f"a chunk at {chunk.offset:,}, expected {have:,}"
    elif have + len(chunk.data) > size:
        code, text = "too-large", f"more than the {size:,} bytes announced"
    elif crc32(chunk.data) != chunk.crc32:
        code, text = "chunk-crc", f"the chunk at {have:,} was damaged on its way"
    if code:
        raise TransferError(f"download: {text}", code=code, retry_after=0.0)


def _place(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # Android, FAT: no hard links
        try:
            target.symlink_to(source.resolve())
        except OSError:
            shutil.copyfile(source, target)
