"""Finished results on the disk until the server has said that it has them."""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Protocol
from zlib import crc32

from fedloom.core.durable import sync, write
from fedloom.core.errors import TransferError
from fedloom.protos.federation_pb2 import Chunk, UploadHeader, UploadPart, UploadStatus

__all__ = ["Finished", "Outbox", "Sender"]

_CHUNK = 256 * 1024
_CHUNK_AFTER_CUT = 64 * 1024
"""A cut loses the chunk that it hits: on a line that has been cut, smaller ones."""


@dataclass(frozen=True)
class Finished:
    """A result without its payload.

    Attributes:
        ticket: of the task.
        size: bytes of the payload; 0 where there is none.
        sha256: of the payload, hex.
        codec: that wrote it.
        num_examples: training examples behind it.
        metrics: what was measured.
        flops: floating-point operations of the training.
        seconds: of computing.
        peak_memory: bytes.
        tokens: trained on.
        download_seconds: in which the model came.
        round: number of the round, for the log.
    """

    ticket: str
    size: int = 0
    sha256: str = hashlib.sha256().hexdigest()
    codec: str = ""
    num_examples: int = 0
    metrics: Mapping[str, float] = field(default_factory=dict)
    flops: float = 0.0
    seconds: float = 0.0
    peak_memory: int = 0
    tokens: int = 0
    download_seconds: float = 0.0
    round: int = 0

    def header(self, offset: int) -> UploadHeader:
        """What an upload from `offset` on begins with."""
        values = asdict(self)
        del values["round"]
        return UploadHeader(offset=offset, **values)


class Sender(Protocol):
    """The two calls that an upload takes."""

    def query_upload(self, ticket: str) -> UploadStatus:
        """What has arrived."""
        ...

    def upload(self, parts: Iterator[UploadPart]) -> int:
        """Send; the number of the update in the server's ledger."""
        ...


class Outbox:
    """A folder of results: ``<ticket>.frame``, then ``<ticket>.json``, both fsynced.

    Args:
        folder: where; made when missing.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._fresh: set[str] = set()  # tickets of which the server cannot have a byte
        self._arrived: dict[str, int] = {}  # bytes that the server had, by ticket
        whole = {path.stem for path in folder.glob("*.json")}
        for path in folder.iterdir():
            if path.stem not in whole or path.suffix not in (".json", ".frame"):
                path.unlink()  # its result was not finished when this device stopped

    def put(self, finished: Finished, frame: bytes) -> None:
        """Keep a result; once this returns, it outlives a power cut.

        Raises:
            TransferError: the disk does not take it.
        """
        try:
            write(self._frame(finished.ticket), frame)
            header = self._header(finished.ticket)
            draft = header.with_suffix(".draft")
            write(draft, json.dumps(asdict(finished)).encode())
            os.replace(draft, header)
            sync(self._folder)
        except OSError as error:
            self.drop(finished.ticket)
            text = f"{error.filename or self._folder}: {error.strerror or error}"
            raise TransferError(text, code="disk-full", retry_after=30.0) from None
        self._fresh.add(finished.ticket)

    def pending(self) -> list[Finished]:
        """Results without a receipt, oldest first; damaged ones are dropped."""
        found = []
        for path in sorted(self._folder.glob("*.json"), key=lambda p: p.stat().st_mtime_ns):
            try:
                finished = Finished(**json.loads(path.read_text(encoding="utf-8")))
                if self._frame(finished.ticket).stat().st_size != finished.size:
                    raise ValueError(finished.size)
                found.append(finished)
            except (OSError, ValueError, TypeError):
                self.drop(path.stem)
        return found

    def holds(self, ticket: str) -> bool:
        """Whether the result of a ticket is here."""
        return self._header(ticket).is_file()

    def drop(self, ticket: str) -> None:
        """Forget a result."""
        self._header(ticket).unlink(missing_ok=True)
        self._frame(ticket).unlink(missing_ok=True)
        self._fresh.discard(ticket)
        self._arrived.pop(ticket, None)

    def send(
        self, finished: Finished, sender: Sender, advanced: Callable[[], None] = lambda: None
    ) -> int:
        """Send a result, or what the server does not have of it, and forget it.

        Args:
            finished: one of `pending`.
            sender: the server.
            advanced: called where an earlier try has brought bytes over.

        Returns:
            The number of the update in the server's ledger.

        Raises:
            TransferError: it was cut (the next call goes on), or is refused.
            IdentityError: this device is not let in.
        """
        ticket, offset, chunk = finished.ticket, 0, _CHUNK
        if ticket not in self._fresh:  # begun by an earlier process, or cut
            status = sender.query_upload(ticket)
            if status.HasField("receipt"):
                self.drop(ticket)
                return int(status.receipt.seq)
            offset, chunk = min(status.offset, finished.size), _CHUNK_AFTER_CUT
            if offset > self._arrived.get(ticket, 0):
                advanced()
        self._fresh.discard(ticket)
        self._arrived[ticket] = offset
        seq = sender.upload(self._parts(finished, offset, chunk))
        self.drop(ticket)
        return seq

    def damaged(self, finished: Finished) -> bool:
        """Whether the payload on the disk is no longer what was written."""
        with self._frame(finished.ticket).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() != finished.sha256

    def _parts(self, finished: Finished, offset: int, size: int) -> Iterator[UploadPart]:
        yield UploadPart(header=finished.header(offset))
        with self._frame(finished.ticket).open("rb") as file:
            file.seek(offset)
            while data := file.read(size):
                yield UploadPart(chunk=Chunk(offset=offset, crc32=crc32(data), data=data))
                offset += len(data)

    def _header(self, ticket: str) -> Path:
        return self._folder / f"{_safe(ticket)}.json"

    def _frame(self, ticket: str) -> Path:
        return self._folder / f"{_safe(ticket)}.frame"


def _safe(ticket: str) -> str:
    """A ticket as a file name.

    Raises:
        TransferError: it is not made of letters, digits, ``-`` and ``_``.
    """
    if not (0 < len(ticket) <= 100 and ticket.replace("-", "").replace("_", "").isalnum()):
        raise TransferError(f"ticket {ticket!r:.120}: not one of ours", code="protocol")
    return ticket
