"""Places where a server can be told to die, so that a test may ask what is left on the disk.

The environment names one of them: ``FEDLOOM_FAILPOINT=rows-written`` ends the process the first
time it gets there, ``rows-written:3`` the third time. Without the variable nothing happens.
"""

import os
import signal
from collections.abc import Iterator
from functools import cache
from itertools import count

__all__ = ["FAILPOINTS", "VARIABLE", "reach"]

VARIABLE = "FEDLOOM_FAILPOINT"

# In the order in which a server comes by them.
STORE = (
    "schema-written",
    "round-written",
    "round-begun",
    "group-taken",
    "segment-made",
    "payload-written",
    "payload-adopted",
    "payloads-synced",
    "rows-written",
    "rows-committed",
    "receipts-given",
    "ticket-written",
    "ticket-reissued",
    "round-closing",
    "round-closed",
    "segment-dropped",
    "enrolment-written",
    "enrolled",
)

COURSE = (
    "ports-open",
    "rounds-cleared",
    "opening-written",
    "model-published",
    "clients-chosen",
    "round-widened",
    "update-replayed",
    "offers-out",
    "task-given",
    "update-arrived",
    "update-refused",
    "update-admitted",
    "update-acknowledged",
    "update-announced",
    "offers-in",
    "updates-folded",
    "round-played",
    "clients-evaluated",
    "round-judged",
    "line-written",
    "state-saved",
    "checkpoints-pruned",
    "summary-written",
)

SPLIT = (
    "far-begun",
    "leg-arrived",
    "step-done",
    "step-written",
    "session-closed",
    "far-joined",
)

FAILPOINTS = STORE + COURSE


def reach(name: str) -> None:
    """End the process by SIGKILL if the environment asks for it here.

    Args:
        name: one of `FAILPOINTS` or `SPLIT`.
    """
    target = _target()
    if target is not None and target[0] == name and next(target[1]) == 1:
        os.kill(os.getpid(), signal.SIGKILL)


@cache
def _target() -> tuple[str, Iterator[int]] | None:
    """The failpoint that is asked for, and how many times yet until it ends the process."""
    name, _, times = os.environ.get(VARIABLE, "").partition(":")
    if not name:
        return None
    known = FAILPOINTS + SPLIT
    if name not in known:
        raise ValueError(f"{VARIABLE} = {name!r}: one of {', '.join(known)}")
    return name, count(int(times or 1), -1)
