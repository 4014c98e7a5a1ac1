"""A TCP proxy that cuts the line when so many bytes have passed, and counts all that pass."""

import socket
import threading
from collections.abc import Iterable
from contextlib import suppress

__all__ = ["CutLine"]

_BLOCK = 64 << 10


class CutLine:
    """Listens on a port of its own and passes everything on to another.

    Args:
        port: where to.
        cuts: how many bytes have passed in all, both ways, when each cut comes, ascending.

    Attributes:
        port: where it listens.
        carried: bytes that have passed, both ways.
        made: cuts so far.
    """

    def __init__(self, port: int, cuts: Iterable[int]) -> None:
        self._target = port
        self._cuts = list(cuts)
        self._lock = threading.Lock()
        self._open: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.carried = self.made = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Cut what is open, and take no more."""
        self._listener.close()
        self._cut()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(("127.0.0.1", self._target))
                with self._lock:
                    self._open = [near, far]
                for ends in ((near, far), (far, near)):
                    threading.Thread(target=self._carry, args=ends, daemon=True).start()

    def _carry(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(_BLOCK):
                target.sendall(data)
                if self._count(len(data)):
                    self._cut()
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def _count(self, size: int) -> bool:
        with self._lock:
            self.carried += size
            due = self.made < len(self._cuts) and self.carried >= self._cuts[self.made]
            self.made += due
            return due

    def _cut(self) -> None:
        with self._lock:
            ends, self._open = self._open, []
        for end in ends:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
