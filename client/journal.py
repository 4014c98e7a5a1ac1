"""How often a task was begun, across restarts: one that ends the process is not begun for ever."""

import json
import os
from pathlib import Path

from fedloom.core.durable import write

__all__ = ["Journal"]


class Journal:
    """One small file with the task in work.

    Args:
        path: of the file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def begin(self, ticket: str, attempt: int) -> int:
        """Note that a task is begun; how many times it has been, this one included."""
        times = self._times(ticket, attempt) + 1
        draft = self._path.with_suffix(".draft")
        write(draft, json.dumps({"ticket": ticket, "attempt": attempt, "times": times}).encode())
        os.replace(draft, self._path)
        return times

    def end(self) -> None:
        """The process has outlived the task."""
        self._path.unlink(missing_ok=True)

    def _times(self, ticket: str, attempt: int) -> int:
        try:
            found = json.loads(self._path.read_text(encoding="utf-8"))
            same = found["ticket"] == ticket and found["attempt"] == attempt
            return int(found["times"]) if same else 0
        except (OSError, ValueError, KeyError, TypeError):
            return 0
