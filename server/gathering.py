"""Between rounds: who is there, and when that is enough to begin."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fedloom.core.serving import ServerConfig
from fedloom.core.types import Client
from fedloom.server.board import Board
from fedloom.server.live_round import pause
from fedloom.server.register import Register

__all__ = ["Gathering"]

LOOK = 0.05
"""Seconds between looks at who is there."""
SAY = 30.0
"""Seconds between remarks on what is waited for."""
_AGAIN = 5.0


@dataclass(frozen=True, eq=False)
class Gathering:
    """Waits for clients.

    Attributes:
        board: who has checked in.
        register: who may be given work, and whether an operator has paused the federation.
        config: how many are enough.
        note: told every now and then of what is waited for.
        stand: told of the phase, and of how many are there.
    """

    board: Board
    register: Register
    config: ServerConfig
    note: Callable[[str], None]
    stand: Callable[..., Any]

    def there(self) -> tuple[Client, ...]:
        """Clients that are there and may be given work, by name."""
        present = self.board.present(self.config.present)
        known = ((client, self.register.client(client.id)) for client in present)
        return tuple(client for client, entry in known if entry is None or entry.may_work)

    def some(self, count: int, seconds: float) -> tuple[Client, ...]:
        """Who is there, once that are so many, or so many seconds have passed.

        After a restart nobody is there until the clients come back.

        Raises:
            Stopped: the server is told to end meanwhile.
        """
        until = time.monotonic() + seconds
        while len(there := self.there()) < count and time.monotonic() < until:
            pause(self.board, LOOK)
        return there

    def enough(self, *, again: bool) -> tuple[Client, ...]:
        """Who is there, once that is enough to begin and nobody has paused the federation.

        Args:
            again: whether a round is begun again: then not at once, so that a round that fails
                at once does not spin.

        Raises:
            Stopped: the server is told to end meanwhile.
        """
        said = began = time.monotonic()
        held = min(self.config.patience, _AGAIN) if again else 0.0
        while True:
            there, paused = self.there(), self.register.paused
            ready = len(there) >= self.config.min_clients and time.monotonic() >= began + held
            self.stand(phase="paused" if paused else "waiting", present=len(there))
            if ready and not paused:
                return there
            if time.monotonic() - said >= SAY:
                said = time.monotonic()
                self.note(_waiting_for(paused, len(there), self.config.min_clients))
            pause(self.board, LOOK)


def _waiting_for(paused: bool, there: int, needed: int) -> str:
    if paused:
        return "paused; `fedloom resume` goes on"
    return f"waiting for clients: {there} of {needed} are there"
