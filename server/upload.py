"""One payload on its way in, and the stream that may add to it."""

import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from fedloom.core.errors import TransferError
from fedloom.server.payloads import Arriving
from fedloom.server.wire import MAX_CHUNK, Buffer

__all__ = ["SOON", "Entry", "Upload"]

SOON = 1.0
"""Seconds after which to come again where only this upload is concerned."""


@dataclass(eq=False)
class Entry:
    """One payload, and the stream that may add to it.

    Attributes:
        payload: what has arrived of it.
        size: bytes declared.
        sha256: digest declared.
        touched: when something last arrived, by the clock of the uploads.
        lock: held while a blocking call works on the payload.
        handle: of the stream; None while there is none.
        whole: whether it was finished: its bytes belong to who asked for them.
    """

    payload: Arriving
    size: int
    sha256: str
    touched: float
    handle: "Upload | None" = None
    whole: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def free(self) -> Iterator[None]:
        """The payload at rest, for the length of a block; it does not wait for that.

        Raises:
            TransferError: a blocking call is at work on it, or it is whole (``busy``).
        """
        if self.whole or not self.lock.acquire(blocking=False):
            text = "what arrived of this payload is just being written; ask for its state"
            raise TransferError(text, code="busy", retry_after=SOON)
        try:
            yield
        finally:
            self.lock.release()

    @property
    def idle(self) -> bool:
        """Whether it takes memory that could be given up: not at work, and not finished."""
        return self.payload.reserved > 0 and not self.whole and not self.lock.locked()


class Upload:
    """One stream's right to add to a payload; it ends when a later stream takes the payload over.

    Attributes:
        ticket: whose payload.
        size: bytes declared.
    """

    def __init__(self, ticket: str, entry: Entry, clock: Callable[[], float]) -> None:
        self.ticket = ticket
        self.size = entry.size
        self._entry = entry
        self._clock = clock

    @property
    def offset(self) -> int:
        """Bytes that have arrived: where the next chunk begins."""
        return self._entry.payload.received

    @property
    def whole(self) -> bool:
        """Whether it was finished: its bytes belong to who asked for them."""
        return self._entry.whole

    @property
    def due(self) -> bool:
        """Whether `write` should be called, in a thread, before the next `append`."""
        return self._entry.payload.due

    def append(self, offset: int, crc32: int, data: Buffer) -> None:
        """Add a chunk. Blocks only where `write` was due and nobody called it.

        Raises:
            TransferError: an empty chunk (``protocol``), one that is too large or passes the
                declared size (``too-large``), is not the next one (``chunk-order``) or was
                changed on its way (``chunk-crc``); the stream has lost its right (``busy``).
                What arrived before stays.
        """
        self._check_right()
        self._check_chunk(offset, crc32, data)
        self._entry.payload.put(data)
        self._entry.touched = self._clock()

    def write(self) -> None:
        """Bring what is due to the disk. Blocks: for a thread.

        Raises:
            TransferError: the disk does not take it (``disk-full``), or the stream has lost its
                right (``busy``).
        """
        with self._entry.lock:
            self._check_right()
            self._entry.payload.write()

    def finish(self) -> bytearray | Path:
        """The payload, whole and checked; it counts as held until it is dropped. Blocks.

        Raises:
            TransferError: bytes are missing (``too-short``), or they are not those declared
                (``digest``): then the upload begins again from 0.
        """
        entry = self._entry
        with entry.lock:
            self._check_right()
            if entry.payload.received < entry.size:
                text = f"{entry.payload.received} of {entry.size} bytes arrived"
                raise TransferError(text, code="too-short", retry_after=SOON)
            found = entry.payload.digest()
            if found != entry.sha256:
                entry.payload.rewind(0)
                text = f"the payload's SHA-256 is {found}, declared was {entry.sha256}"
                raise TransferError(text, code="digest", retry_after=SOON)
            entry.whole = True
            return entry.payload.whole()

    def pause(self) -> None:
        """End this stream; another may go on. Blocks where the payload goes to a file.

        Nothing once the stream has lost its right. A disk that fails costs what was not written.
        """
        entry = self._entry
        with entry.lock:
            if entry.handle is not self or entry.whole:
                return
            try:
                entry.payload.rest()
            except TransferError:
                entry.payload.lose()
            entry.handle = None

    def _check_right(self) -> None:
        if self._entry.handle is not self or self._entry.whole:
            text = "this stream has ended: another took over, or it stood still"
            raise TransferError(text, code="busy", retry_after=SOON)

    def _check_chunk(self, offset: int, crc32: int, data: Buffer) -> None:
        have, size = self.offset, len(data)
        if not size:
            raise TransferError("an empty chunk", code="protocol")
        if size > MAX_CHUNK:
            text = f"a chunk of {size} bytes; at most {MAX_CHUNK} are allowed"
            raise TransferError(text, code="too-large")
        if offset != have:
            text = f"a chunk at offset {offset}; the next one begins at {have}"
            raise TransferError(text, code="chunk-order", retry_after=SOON)
        if have + size > self.size:
            text = f"a chunk up to byte {have + size}; {self.size} were declared"
            raise TransferError(text, code="too-large")
        if zlib.crc32(data) != crc32:
            text = f"the chunk at offset {offset} was changed on its way"
            raise TransferError(text, code="chunk-crc", retry_after=SOON)
