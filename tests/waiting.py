"""Waits of tests: what does not happen in time is a failure that says what, and no hang."""

import time
from collections.abc import Callable

__all__ = ["until"]


def until(
    condition: Callable[[], object], what: str, seconds: float = 60.0, *, every: float = 0.02
) -> None:
    """Wait until something is so.

    Args:
        condition: whether it is; it may take its time to say.
        what: for the message.
        seconds: after which it is asked for the last time.
        every: seconds between one time and the next.
    """
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"{what}: not within {seconds:g} s"
        time.sleep(every)
