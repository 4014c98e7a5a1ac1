"""The thread that puts results on the disk, as many at once as are waiting.

The order is what makes an acknowledgement true: the payload's bytes, a flush of them, the row, a
flush of that, and only then the number that the client is told.
"""

import queue
import sqlite3
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path

from fedloom.core.errors import TransferError
from fedloom.server.failpoints import reach
from fedloom.server.ledger import Ledger
from fedloom.server.records import Entry, Place, Result, Ticket
from fedloom.server.segments import Bytes, Segments

__all__ = ["Committer"]

_GROUP = 64
_GROUP_BYTES = 64 << 20


@dataclass(frozen=True, eq=False)
class _Waiting:
    ticket: Ticket
    result: Result
    payload: Bytes | Path
    future: Future[int] = field(default_factory=Future)


class Committer:
    """Writes results down from any number of threads; it has one of its own.

    Args:
        ledger: where the rows go.
        segments: where the payloads go.
        durable: with False a result is acknowledged before the disk has it: it outlives the
            process, but not the machine's going down.
        retry_after: seconds that a client is told to wait when the disk is full.
    """

    def __init__(
        self,
        ledger: Ledger,
        segments: Segments,
        *,
        durable: bool = True,
        retry_after: float = 30.0,
    ) -> None:
        self._ledger = ledger
        self._segments = segments
        self._durable = durable
        self._retry_after = retry_after
        self._queue: queue.SimpleQueue[_Waiting | None] = queue.SimpleQueue()
        self._door = threading.Lock()
        self._closed = False
        self._writing = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="committer", daemon=True)
        self._thread.start()

    def submit(self, ticket: Ticket, result: Result, payload: Bytes | Path) -> Future[int]:
        """Put a result on the disk.

        Args:
            ticket: what it answers.
            result: what the client says of it.
            payload: its bytes, not to be changed until the future is done; or a file, which is
                taken over, unless it is not taken or was written before.

        Returns:
            The number of the result, once it is safe. Or TransferError: ``disk-full`` (nothing is
            lost; later ones work when there is room), ``busy`` (the server is stopping), or as
            `Ledger.record` says.
        """
        waiting = _Waiting(ticket, result, payload)
        with self._door:
            if not self._closed:
                self._queue.put(waiting)
                return waiting.future
        text = "the server is stopping"
        waiting.future.set_exception(TransferError(text, code="busy", retry_after=5.0))
        return waiting.future

    def sweep(self, *, over: bool = False) -> None:
        """Remove the payloads that no row names any more, after a round has begun.

        Args:
            over: whether no round follows.

        Raises:
            OSError: a file could not be removed.
        """
        with self._writing:
            named = {place.segment for place in self._ledger.places()}
            self._segments.drop_except(named, over=over)

    def close(self) -> None:
        """Write what is waiting, then end the thread."""
        with self._door:
            if not self._closed:
                self._closed = True
                self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        last = False
        while not last:
            group, last = self._take()
            if group:
                reach("group-taken")
                with self._writing:
                    self._commit([waiting for waiting in group if not self._answered(waiting)])
                reach("receipts-given")

    def _take(self) -> tuple[list[_Waiting], bool]:
        """What is waiting, at least one, and whether it is the last."""
        group: list[_Waiting] = []
        size = 0
        while len(group) < _GROUP and size < _GROUP_BYTES:
            try:
                waiting = self._queue.get(block=not group)
            except queue.Empty:
                break
            if waiting is None:
                return group, True
            if waiting.future.set_running_or_notify_cancel():
                group.append(waiting)
                size += waiting.result.size
        return group, False

    def _answered(self, waiting: _Waiting) -> bool:
        """Whether a result is written already or not to be taken, which costs the disk nothing."""
        answer = self._ledger.answer(waiting.ticket, waiting.result.sha256)
        if answer is not None:
            _resolve(waiting.future, answer)
        return answer is not None

    def _commit(self, group: list[_Waiting]) -> None:
        try:
            outcomes = self._store(group)
        except (OSError, sqlite3.Error) as error:
            if len(group) > 1:  # what one of them cannot, others may
                for waiting in group:
                    self._commit([waiting])
                return
            text = f"the server cannot write this now: {error}"
            full = TransferError(text, code="disk-full", retry_after=self._retry_after)
            group[0].future.set_exception(full)
        except Exception as error:
            for waiting in group:
                waiting.future.set_exception(error)
        else:
            for waiting, outcome in zip(group, outcomes, strict=True):
                _resolve(waiting.future, outcome)

    def _store(self, group: Sequence[_Waiting]) -> list[int | TransferError]:
        if not group:
            return []
        payloads = [waiting.payload for waiting in group]
        places = self._segments.append(payloads)
        try:
            return self._record(group, places)
        except (OSError, sqlite3.Error):
            self._segments.undo(payloads, places)
            raise

    def _record(
        self, group: Sequence[_Waiting], places: Sequence[Place]
    ) -> list[int | TransferError]:
        if self._durable:
            self._segments.sync()
        reach("payloads-synced")
        entries = [Entry(w.ticket, w.result, p) for w, p in zip(group, places, strict=True)]
        return self._ledger.record(entries, durable=self._durable)


def _resolve(future: Future[int], outcome: int | TransferError) -> None:
    if isinstance(outcome, TransferError):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)
