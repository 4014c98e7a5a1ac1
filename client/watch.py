"""An eye on a transfer: whether it moves."""

import threading
from collections.abc import Callable, Iterator
from typing import TypeVar

__all__ = ["Watch"]

Part = TypeVar("Part")


class Watch:
    """Cancels a transfer that stands still; gRPC itself would wait for ever.

    Args:
        cancel: ends the transfer; None where it has not begun.
        idle: seconds without a move.
    """

    def __init__(self, cancel: Callable[[], object] | None, idle: float) -> None:
        self.cancel = cancel
        self._idle = idle
        self._moves = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="fedloom-watch", daemon=True)

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def moved(self) -> None:
        """Something has come or gone."""
        self._moves += 1

    def over(self, parts: Iterator[Part]) -> Iterator[Part]:
        """The parts as they are taken."""
        for part in parts:
            self.moved()
            yield part

    def _run(self) -> None:
        seen = -1
        while not self._ended.wait(self._idle):
            if self._moves == seen and self.cancel is not None:
                self.cancel()
                return
            seen = self._moves
