"""The log of a device: a line per event, for a person or for a program."""

import logging
import time
from collections.abc import Callable

__all__ = ["Rarely", "log"]

log = logging.getLogger("fedloom.client")
"""Where everything on a device is told; ``extra={"facts": {...}}`` carries facts for programs."""


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
