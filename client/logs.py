"""The log of a device: a line per event, for a person or for a program."""

import json
import logging
import sys
import time
from collections.abc import Callable
from typing import TextIO

__all__ = ["Rarely", "log", "write_logs"]

log = logging.getLogger("fedloom.client")
"""Where everything on a device is told; ``extra={"facts": {...}}`` carries facts for programs."""


def write_logs(*, as_json: bool = False, stream: TextIO | None = None) -> None:
    """Send the log of this process to a stream (stderr where none is given)."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(_Json() if as_json else _Text())
    log.handlers[:] = [handler]
    log.setLevel(logging.INFO)
    log.propagate = False


class _Text(logging.Formatter):
    """``2026-02-01 12:00:00 info     text``."""

    def format(self, record: logging.LogRecord) -> str:
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record.created))
        text = f"{when} {record.levelname.lower():<8} {record.getMessage()}"
        return f"{text}\n{self.formatException(record.exc_info)}" if record.exc_info else text


class _Json(logging.Formatter):
    """One JSON object: time (seconds since 1970), level, text, and the facts."""

    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": round(record.created, 3),
            "level": record.levelname.lower(),
            "text": record.getMessage(),
            **getattr(record, "facts", {}),
        }
        if record.exc_info:
            entry["trace"] = self.formatException(record.exc_info)
        return json.dumps(entry)


class Rarely:
    """Tells of something that goes on, at once and then at most once in a while.

    Args:
        every: seconds between two lines.
        clock: seconds from any beginning, never backwards.
    """

    def __init__(self, *, every: float = 60.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._every, self._clock = every, clock
        self._last: float | None = None
        self._first: float | None = None

    def is_due(self) -> bool:
        """Whether a line may be written now; it counts as written."""
        now = self._clock()
        if self._first is None:
            self._first = now
        if self._last is not None and now - self._last < self._every:
            return False
        self._last = now
        return True

    def over(self) -> float | None:
        """Seconds that it went on, now that it is over; None where it did not go on."""
        first, self._first = self._first, None
        return None if first is None else self._clock() - first
