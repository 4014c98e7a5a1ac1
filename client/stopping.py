"""SIGTERM and SIGINT: a stop that the main thread notices within seconds, whatever it is at.

The system's signal is seen by a thread of its own, because Python runs handlers in the main
thread, in which a lock may be held that whoever is told of the stop needs.
"""

import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["Stop", "Stopped"]

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Stopped(BaseException):
    """The computation was left in the middle, because the device stops."""


class Stop:
    """Whether the device is to stop, and who wants to know."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._told: list[Callable[[], None]] = []
        self._signalled = False
        self._interruptible = False

    def is_set(self) -> bool:
        """Whether the device is to stop."""
        return self._signalled or self._event.is_set()

    def wait(self, seconds: float) -> bool:
        """Wait, but not beyond a stop; whether the device is to stop."""
        return self._event.wait(seconds) or self.is_set()

    def tell(self, listener: Callable[[], None]) -> None:
        """Call `listener`, in another thread, when the device is to stop."""
        self._told.append(listener)

    def set(self) -> None:
        """Stop. Not to be called from a signal handler."""
        self._event.set()
        for listener in self._told:
            listener()

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """A computation in the main thread that a signal ends with `Stopped`."""
        self._interruptible = True
        try:
            if self.is_set():
                raise Stopped
            yield
        finally:
            self._interruptible = False

    @contextmanager
    def signals(self) -> Iterator[None]:
        """Stop on SIGTERM and SIGINT; a second one ends the process at once.

        Only in the main thread.
        """
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        thread = threading.Thread(
            target=self._watch, args=(ours,), name="fedloom-stop", daemon=True
        )
        before = {number: signal.signal(number, self._handle) for number in _SIGNALS}
        fd = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
        thread.start()
        try:
            yield
        finally:
            signal.set_wakeup_fd(fd)
            for number, handler in before.items():
                signal.signal(number, handler)
            theirs.close()
            thread.join()
            ours.close()

    def _handle(self, number: int, _: object) -> None:
        """In the main thread: no lock may be taken here."""
        self._signalled = True
        for each in _SIGNALS:
            signal.signal(each, signal.SIG_DFL)
        if self._interruptible:
            self._interruptible = False
            raise Stopped

    def _watch(self, ours: socket.socket) -> None:
        while data := ours.recv(16):
            if any(number in _SIGNALS for number in data):
                self.set()
