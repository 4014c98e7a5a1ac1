"""How a result comes in: its ticket, its bytes, the gate, the disk, and only then the receipt."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from fedloom.core.errors import TransferError, UpdateRefusedError
from fedloom.core.types import ClientId, ClientUpdate
from fedloom.server.board import Arrival, Board, GaveUp, Offer
from fedloom.server.committer import Committer
from fedloom.server.failpoints import reach
from fedloom.server.gate import Gate, check_weight
from fedloom.server.ledger import Ledger
from fedloom.server.messages import plain
from fedloom.server.records import Result, Ticket
from fedloom.server.register import Register
from fedloom.server.uploads import Upload, Uploads
from fedloom.server.wire import RawChunk

__all__ = ["Intake"]

T = TypeVar("T")
_QUICK = 128 * 1024
"""Bytes of a payload that is checked in less time than another thread takes to be asked."""
_BEHIND = 16 << 20
"""Bytes of updates that may wait in memory for the round; it reads others from the disk."""
_REASON = 200
"""Characters of why a client gives up."""


@dataclass(eq=False)
class Intake:
    """Takes results for the round that is open. Its coroutines run in one asyncio loop.

    Attributes:
        board: whose offers are taken, and where arrivals are announced.
        ledger: what was acknowledged.
        register: whose refusals are counted.
        committer: writes results to the disk.
        uploads: results that are arriving.
        attempts: tries that a client has at a task.
        max_examples: largest weight that a client may claim.
        gate: the open round's; None between rounds.
        loop: where the coroutines run; `uploads` is touched in it only.
        pool: threads for what takes long beside it.
    """

    board: Board
    ledger: Ledger
    register: Register
    committer: Committer
    uploads: Uploads
    attempts: int = 3
    max_examples: int = 1_000_000
    gate: Gate | None = None
    loop: asyncio.AbstractEventLoop | None = None
    pool: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(2, "gate"))
    _settling: "set[asyncio.Task[int]]" = field(default_factory=set)

    async def take(
        self,
        client: ClientId,
        ticket_id: str,
        result: Result,
        offset: int,
        chunks: AsyncIterator[RawChunk],
    ) -> int:
        """Receive one result; returns its number in the ledger once it is on the disk.

        Args:
            client: who sends, as its certificate says.
            ticket_id: the ticket that it answers.
            result: what it declares.
            offset: where `chunks` begin in the payload.
            chunks: the payload.

        Raises:
            TransferError: it did not arrive whole, or the ticket does not hold.
            UpdateRefusedError: it arrived and cannot be used.
        """
        known = self.acknowledged(client, ticket_id, result)
        if known is not None:
            return known
        offer = self._offer(client, ticket_id)
        if offer.ticket.kind != "train":
            return self._evaluated(offer.ticket, result)
        gate = self.gate
        if gate is None:
            raise _over(offer.ticket.round)
        try:
            gate.size(result)
        except UpdateRefusedError as error:
            self._refuse(offer, error)
            raise
        down = offer.models.size(client) if offer.models else offer.model_size
        result = replace(result, cost=replace(result.cost, bytes_down=down))
        began = time.monotonic()
        upload = await self._receive(ticket_id, result, offset, chunks)
        taken = result.cost.network_seconds + time.monotonic() - began
        result = replace(result, cost=replace(result.cost, network_seconds=taken))
        # Once all is here it is taken, even if nobody waits for the receipt any more.
        settling = asyncio.create_task(self._settle(gate, offer, result, upload))
        self._settling.add(settling)
        settling.add_done_callback(self._settled)
        return await asyncio.shield(settling)

    def acknowledged(
        self, client: ClientId, ticket_id: str, result: Result | None = None
    ) -> int | None:
        """The number of the result that this ticket has already brought, or None.

        Raises:
            TransferError: the ticket is another client's, or it brought other bytes.
        """
        ticket = self.ledger.ticket(ticket_id)
        if ticket is None:
            return None
        if ticket.client != client:
            raise TransferError("the ticket is another client's", code="ticket-other")
        if result is None:
            return self.ledger.receipt(ticket_id)
        answer = self.ledger.answer(ticket, result.sha256)
        if isinstance(answer, TransferError):
            raise answer
        return answer

    def arrived(self, client: ClientId, ticket_id: str) -> int:
        """Bytes that have arrived of an upload that was cut.

        Raises:
            TransferError: the ticket does not hold.
        """
        self._offer(client, ticket_id)
        return self.uploads.status(ticket_id)

    def gave_up(self, client: ClientId, ticket_id: str, reason: str) -> None:
        """A client says that it will not hand in a result. An unknown ticket is passed over."""
        offer = self.board.offered(client)
        if offer is not None and offer.ticket.id == ticket_id:
            self.board.withdraw([client])
            text = f"the client gave up: {plain(reason[:_REASON])}"
            self.board.events.put(GaveUp(offer.ticket, text))

    def _offer(self, client: ClientId, ticket_id: str) -> Offer:
        offer = self.board.offered(client)
        if offer is not None and offer.ticket.id == ticket_id:
            return offer
        ticket = self.ledger.ticket(ticket_id)
        if ticket is None:
            raise TransferError("no such ticket; check in for a task", code="ticket-unknown")
        if ticket.client != client:
            raise TransferError("the ticket is another client's", code="ticket-other")
        if self.gate is not None:
            text = f"nothing more is taken of this client in round {ticket.round}"
            raise TransferError(text, code="benched")
        raise _over(ticket.round)

    def begin_round(self) -> None:
        """Give up what arrived for rounds before, in memory and on the disk."""
        current = self.ledger.current()
        tickets = [ticket.id for ticket in current.tickets.values()] if current else []
        if self.loop is not None:
            self.loop.call_soon_threadsafe(self.uploads.retain, tickets)
        self.committer.sweep()

    async def _receive(
        self, ticket_id: str, result: Result, offset: int, chunks: AsyncIterator[RawChunk]
    ) -> Upload | None:
        """Take chunks until there are no more; None for a result without a payload."""
        if not result.size:
            return None
        upload = self.uploads.begin(ticket_id, result.size, sha256=result.sha256, offset=offset)
        try:
            async for chunk in chunks:
                upload.append(chunk.offset, chunk.crc32, chunk.data)
                if upload.due:
                    await self._aside(upload.write)
        except BaseException:
            await self._aside(upload.pause)
            raise
        return upload

    async def _settle(self, gate: Gate, offer: Offer, result: Result, upload: Upload | None) -> int:
        """Check what has arrived, write it, and tell the round; its number in the ledger."""
        ticket, checking = offer.ticket, (gate, offer.ticket, result, upload)
        try:
            if result.size <= _QUICK:
                payload, update = _checked(*checking)
            else:
                payload, update = await self._aside(_checked, *checking)
            waiting = update if self._in_memory(payload) else None
            del update
            seq = await asyncio.wrap_future(self.committer.submit(ticket, result, payload))
        except UpdateRefusedError as error:
            self._refuse(offer, error)
            raise
        finally:
            if upload is None or upload.whole:
                self.uploads.drop(ticket.id)
        reach("update-acknowledged")
        self.board.withdraw([ticket.client])
        self.board.events.put(Arrival(ticket, waiting, seq))
        reach("update-announced")
        self.register.accepted(ticket.client)
        return seq

    def _settled(self, task: "asyncio.Task[int]") -> None:
        self._settling.discard(task)
        if not task.cancelled():
            task.exception()  # has been told to whoever still listened

    def _in_memory(self, payload: bytes | bytearray | Path) -> bool:
        """Whether an update waits in memory for the round, which may be slower than clients are."""
        if isinstance(payload, Path):
            return False
        return self.board.events.qsize() * len(payload) < _BEHIND

    def _evaluated(self, ticket: Ticket, result: Result) -> int:
        check_weight(result.num_examples, self.max_examples)
        update = ClientUpdate(
            client=ticket.client,
            round=ticket.round,
            num_examples=result.num_examples,
            metrics=result.metrics,
            cost=result.cost,
        )
        self.board.withdraw([ticket.client])
        self.board.events.put(Arrival(ticket, update))
        return 0

    def _refuse(self, offer: Offer, error: UpdateRefusedError) -> None:
        """Count a refusal; the client may try again, or is benched for the round."""
        ticket = offer.ticket
        self.ledger.refuse(ticket.client, ticket.round, error.code, str(error))
        quarantined = self.register.refused(ticket.client, error.code)
        reach("update-refused")
        hopeless = quarantined or error.code == "no-delta"
        if ticket.attempt < self.attempts and not hopeless:
            again = self.ledger.reissue(ticket)
            self.board.replace(offer, again)
            return
        self.board.withdraw([ticket.client])
        self.board.events.put(GaveUp(ticket, str(error)))

    async def _aside(self, work: Callable[..., T], *arguments: object) -> T:
        """Run something that takes long beside the loop that answers clients."""
        return await asyncio.get_running_loop().run_in_executor(self.pool, work, *arguments)


def _checked(
    gate: Gate, ticket: Ticket, result: Result, upload: Upload | None
) -> tuple[bytes | bytearray | Path, ClientUpdate]:
    """A payload that has arrived, and the update in it."""
    payload = _whole(upload)
    reach("update-arrived")
    if isinstance(payload, Path):
        update = gate.admit(ticket, result, payload.read_bytes())
    else:
        update = gate.admit(ticket, result, payload)
    reach("update-admitted")
    return b"" if payload is None else payload, update


def _whole(upload: Upload | None) -> bytearray | Path | None:
    if upload is None:
        return None
    try:
        return upload.finish()
    finally:
        upload.pause()


def _over(number: int) -> TransferError:
    return TransferError(f"round {number} takes no more results", code="round-over")
