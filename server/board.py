"""What hangs out for clients: the offers of the present round, and who is there to take one.

The one meeting point of the two threads of a server: the calls of clients (an asyncio loop) and
the course of rounds. Every method may be called from either.
"""

import asyncio
import queue
import threading
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from fedloom.core.types import Client, ClientId, ClientUpdate
from fedloom.server.models import Models
from fedloom.server.records import Ticket

__all__ = ["Arrival", "Board", "Event", "GaveUp", "Offer", "Presence", "Stopping"]


@dataclass(frozen=True)
class Offer:
    """A task that waits for its client.

    Attributes:
        ticket: the right to hand in its result.
        order: the work order, JSON.
        model: address of the model to start from.
        model_size: bytes of it.
        ends: `time.monotonic` at which the result comes too late.
        max_bytes: largest payload that is taken.
        models: smaller forms of the model, for what clients hold; None where there are none.
    """

    ticket: Ticket
    order: str
    model: str
    model_size: int
    ends: float
    max_bytes: int
    models: Models | None = None


@dataclass(frozen=True)
class Arrival:
    """An update that is on the disk; of an evaluation, one that has come.

    Attributes:
        ticket: what it answers.
        update: it; None where it is to be read from the disk.
        seq: its number in the ledger; 0 of an evaluation.
    """

    ticket: Ticket
    update: ClientUpdate | None
    seq: int = 0


@dataclass(frozen=True)
class GaveUp:
    """A client of the cohort that will not hand in a result."""

    ticket: Ticket
    reason: str


@dataclass(frozen=True)
class Stopping:
    """The server is about to end."""


Event: TypeAlias = Arrival | GaveUp | Stopping


@dataclass
class Presence:
    """What is known of a client that has checked in.

    Attributes:
        num_examples: training examples that it says it holds.
        seen: `time.monotonic` of its last word.
        tier: what kind of device it says it is.
        memory: bytes that it says training may take.
    """

    num_examples: int
    seen: float
    tier: str = ""
    memory: int = 0


@dataclass(eq=False)
class Board:
    """Offers, waiting clients, and events for the course of rounds."""

    clock: Callable[[], float] = time.monotonic
    events: queue.SimpleQueue[Event] = field(default_factory=queue.SimpleQueue)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _offers: dict[ClientId, Offer] = field(default_factory=dict)
    _present: dict[ClientId, Presence] = field(default_factory=dict)
    _waiting: dict[ClientId, asyncio.Future[None]] = field(default_factory=dict)
    _done: str = ""
    _ending: bool = False
    _told: set[ClientId] = field(default_factory=set)

    def next(self, seconds: float) -> Event | None:
        """The next event, waiting up to `seconds` for it."""
        try:
            return self.events.get(timeout=seconds)
        except queue.Empty:
            return None

    def offer(self, offers: Iterable[Offer]) -> None:
        """Hang out offers, replacing those of the same clients, and wake who waits for them."""
        with self._lock:
            named = {offer.ticket.client: offer for offer in offers}
            self._offers |= named
            woken = [self._waiting.pop(c) for c in named if c in self._waiting]
        _wake(woken)

    def replace(self, offer: Offer, ticket: Ticket) -> None:
        """Hang out an offer again under another ticket, where it still hangs."""
        with self._lock:
            if self._offers.get(ticket.client) is offer:
                self._offers[ticket.client] = replace(offer, ticket=ticket)

    def withdraw(self, clients: Collection[ClientId] | None = None) -> None:
        """Take down offers: those of some clients, or all."""
        with self._lock:
            for client in list(self._offers) if clients is None else clients:
                self._offers.pop(client, None)

    def offered(self, client: ClientId) -> Offer | None:
        """What hangs out for a client."""
        with self._lock:
            return self._offers.get(client)

    def finish(self, reason: str) -> None:
        """There will be no more work: who waits is told, and who comes."""
        with self._lock:
            self._done = reason
            self._offers.clear()
        self.release()

    def release(self) -> None:
        """Nobody waits any more, or hears of anything but an offer: the server is about to end."""
        with self._lock:
            self._ending = True
            woken = list(self._waiting.values())
            self._waiting.clear()
        _wake(woken)

    def finished(self, client: ClientId) -> str:
        """Why there will be no more work, for a client that is told now; empty while there may."""
        with self._lock:
            if self._done:
                self._told.add(client)
            return self._done

    def unaware(self, within: float) -> int:
        """How many that were heard of in so many seconds have not been told that it is over."""
        with self._lock:
            since = self.clock() - within
            return sum(p.seen >= since and c not in self._told for c, p in self._present.items())

    async def wait(self, client: ClientId, seconds: float) -> Offer | None:
        """The offer for a client, waiting up to `seconds` for one; None where none came."""
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        with self._lock:
            found = self._offers.get(client)
            if found or self._ending or seconds <= 0:
                return found
            before = self._waiting.get(client)
            self._waiting[client] = woken
        _wake([before] if before else [])  # an older call of the same client waits in vain
        try:
            await asyncio.wait_for(woken, seconds)
        except TimeoutError:
            pass
        finally:
            with self._lock:
                if self._waiting.get(client) is woken:
                    del self._waiting[client]
        return self.offered(client)

    def seen(self, client: ClientId, num_examples: int, *, tier: str = "", memory: int = 0) -> None:
        """A client has checked in."""
        with self._lock:
            self._present[client] = Presence(num_examples, self.clock(), tier, memory)

    def touch(self, client: ClientId) -> None:
        """A client was heard of."""
        with self._lock:
            if client in self._present:
                self._present[client].seen = self.clock()

    def forget(self, client: ClientId) -> None:
        """A client is not let in any more."""
        with self._lock:
            self._present.pop(client, None)
            self._offers.pop(client, None)

    def present(self, within: float) -> tuple[Client, ...]:
        """The clients with examples that were heard of in so many seconds, by name.

        Who waits for work, or works, counts as heard of.
        """
        with self._lock:
            since = self.clock() - within
            there = (
                Client(name, p.num_examples, p.tier, p.memory)
                for name, p in self._present.items()
                if p.num_examples and (p.seen >= since or name in self._waiting)
            )
            return tuple(sorted(there, key=lambda client: client.id))

    @property
    def counts(self) -> tuple[int, int]:
        """How many clients have checked in since the start, and how many wait just now."""
        with self._lock:
            return len(self._present), len(self._waiting)


def _wake(futures: Iterable[asyncio.Future[None]]) -> None:
    for future in futures:
        future.get_loop().call_soon_threadsafe(_resolve, future)


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
