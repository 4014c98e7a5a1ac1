"""Payloads on their way in: resumable, checked as they come, in memory bounded by configuration.

Everything here is called from one event loop, except what is said to block: that may run in a
thread, one call at a time for each upload.
"""

import re
import time
from collections.abc import Callable, Collection
from pathlib import Path

from fedloom.core.errors import TransferError
from fedloom.server.payloads import Arriving, MemoryPayload, StagedPayload
from fedloom.server.upload import SOON, Entry, Upload
from fedloom.server.wire import MAX_CHUNK

__all__ = ["SMALL", "Upload", "Uploads"]

SMALL = 4 * 1024 * 1024
"""Payloads of up to so many bytes stay in memory; longer ones are written so many at a time."""

_LARGEST = 1 << 40
_FULL_RETRY = 2.0
_STALLED, _KEPT = 30.0, 600.0
_TICKET = re.compile(r"[0-9a-f]{32}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_SUFFIX = ".part"


class Uploads:
    """All payloads on their way.

    The declared sizes of those in memory, and the blocks of those on their way to the disk, never
    add up to more than `limit`. To make room, payloads whose stream is gone or stands still are
    given up, the oldest first; of one in a file, only what was not written.

    Attributes:
        small: payloads of up to so many bytes stay in memory.
    """

    def __init__(
        self,
        folder: Path,
        limit: int,
        *,
        small: int = SMALL,
        largest: int = _LARGEST,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Use `folder` for the files of long payloads, and `limit` bytes of memory.

        `largest` is the size that is refused whatever a ticket says; `clock` gives seconds.
        """
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder = folder
        self._limit, self._largest = limit, largest
        self.small = min(small, limit // 2)
        self._clock = clock
        self._entries: dict[str, Entry] = {}

    @property
    def held(self) -> int:
        """Bytes of memory taken, those of finished payloads included until they are dropped."""
        return sum(entry.payload.reserved for entry in self._entries.values())

    def __len__(self) -> int:
        return len(self._entries)

    def begin(self, ticket: str, size: int, *, sha256: str, offset: int) -> Upload:
        """Begin a payload, or go on with it; the stream that did so before loses its right.

        Going on somewhere before what has arrived is allowed; another size or digest begins anew.

        Raises:
            TransferError: no ticket (``ticket-unknown``), a digest that is none (``protocol``), a
                size out of bounds (``too-large``), an offset beyond what has arrived
                (``chunk-order``), no memory left (``busy``) or a payload that is just being
                written (``busy``).
        """
        _check_ticket(ticket)
        self._check_declared(size, sha256)
        entry = self._entries.get(ticket)
        if entry is not None and (entry.size, entry.sha256) != (size, sha256):
            with entry.free():
                self.drop(ticket)
            entry = None
        if entry is None:
            entry = Entry(self._payload(ticket, size), size, sha256, self._clock())
        with entry.free():
            self._resume(entry, offset)
            entry.handle = upload = Upload(ticket, entry, self._clock)
            entry.touched = self._clock()
        self._entries[ticket] = entry
        return upload

    def status(self, ticket: str) -> int:
        """Bytes that have arrived for a ticket; 0 where none have.

        Raises:
            TransferError: no ticket (``ticket-unknown``).
        """
        _check_ticket(ticket)
        entry = self._entries.get(ticket)
        if entry is not None:
            return entry.payload.received
        path = self._path(ticket)
        return path.stat().st_size if path.is_file() else 0

    def drop(self, ticket: str) -> None:
        """Forget a payload, also on the disk; the bytes of a finished one stay with their owner.

        One in a file must have been moved away by then.
        """
        _check_ticket(ticket)
        entry = self._entries.pop(ticket, None)
        if entry is not None:
            entry.handle = None
        if entry is None or not isinstance(entry.payload, MemoryPayload):
            self._path(ticket).unlink(missing_ok=True)

    def retain(self, tickets: Collection[str]) -> None:
        """Drop every payload whose ticket is not among these, those of earlier processes too."""
        on_disk = (path.name.removesuffix(_SUFFIX) for path in self._folder.glob(f"*{_SUFFIX}"))
        for ticket in {*self._entries, *filter(_TICKET.fullmatch, on_disk)} - set(tickets):
            self.drop(ticket)

    def sweep(self, seconds: float = _KEPT) -> int:
        """Give up what lay idle in memory for so long; how many payloads that were."""
        old = self._idle(seconds, seconds)
        for ticket in old:
            self._evict(ticket)
        return len(old)

    def _check_declared(self, size: int, sha256: str) -> None:
        if not _SHA256.fullmatch(sha256):
            raise TransferError("sha256: 64 hex digits are expected", code="protocol")
        most = self._largest if self._limit >= self.small + MAX_CHUNK else self._limit
        if not 0 <= size <= most:
            text = f"a payload of {size} bytes; this server takes {most}"
            raise TransferError(text, code="too-large")

    def _payload(self, ticket: str, size: int) -> Arriving:
        if size <= self.small:
            # An earlier process may have left the file of a longer one.
            self._path(ticket).unlink(missing_ok=True)
            return MemoryPayload(size)
        return StagedPayload(self._path(ticket), size, block=self.small)

    def _path(self, ticket: str) -> Path:
        return self._folder / f"{ticket}{_SUFFIX}"

    def _resume(self, entry: Entry, offset: int) -> None:
        have = entry.payload.received
        if not 0 <= offset <= have:
            text = f"the upload goes on at {offset}; {have} bytes have arrived"
            raise TransferError(text, code="chunk-order", retry_after=SOON)
        self._make_room(entry)
        if offset < have:
            entry.payload.rewind(offset)

    def _make_room(self, entry: Entry) -> None:
        """Claim what the payload needs of the memory, at the cost of those that stand still."""
        need = entry.payload.wanted - entry.payload.reserved
        over = self.held + need - self._limit
        idle = self._idle(0.0, _STALLED) if over > 0 else []
        for ticket in idle:
            over -= self._entries[ticket].payload.reserved
            self._evict(ticket)
            if over <= 0:
                break
        if over > 0:
            text = f"all {self._limit} bytes for arriving payloads are taken"
            raise TransferError(text, code="busy", retry_after=_FULL_RETRY)
        entry.payload.claim()

    def _idle(self, paused: float, stalled: float) -> list[str]:
        """Tickets untouched for so many seconds, without a stream or with one; oldest first."""
        now = self._clock()
        found = [
            (entry.touched, ticket)
            for ticket, entry in self._entries.items()
            if entry.idle and now - entry.touched >= (stalled if entry.handle else paused)
        ]
        return [ticket for _, ticket in sorted(found)]

    def _evict(self, ticket: str) -> None:
        entry = self._entries[ticket]
        entry.handle = None
        if not entry.payload.lose():
            del self._entries[ticket]


def _check_ticket(ticket: str) -> None:
    if not _TICKET.fullmatch(ticket):
        raise TransferError("a ticket is 32 hex digits", code="ticket-unknown")
