import asyncio
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path

import pytest
from small_server import begin_round, chunks, frame_of, offer_of, opened, result_of, take, taken

from fedloom.core.errors import TransferError, UpdateRefusedError
from fedloom.server.board import Arrival, GaveUp
from fedloom.server.federation import Federation
from fedloom.server.records import Ticket
from fedloom.server.tokens import Certificate

FRAME = frame_of(1.0)


@pytest.fixture
def federation(tmp_path: Path) -> Iterator[Federation]:
    with opened(tmp_path, server={"quarantine": 4}) as found:
        yield found


def refusal(federation: Federation, ticket: Ticket, frame: bytes = bytes(60)) -> str:
    with pytest.raises((TransferError, UpdateRefusedError)) as caught:
        take(federation, ticket, frame)
    assert isinstance(caught.value, TransferError | UpdateRefusedError)
    return caught.value.code


def test_a_result_is_on_the_disk_and_announced_before_its_receipt(federation: Federation) -> None:
    ticket = begin_round(federation, ["ann"])["ann"]
    seq = take(federation, ticket, FRAME)
    (written,) = federation.ledger.written(1)
    assert (written.seq, written.ticket) == (seq, ticket)
    assert federation.live.segments.read(written.place) == FRAME
    event = federation.board.next(0)
    assert isinstance(event, Arrival)
    assert event.update is not None
    assert event.update.delta is not None
    assert federation.board.offered("ann") is None
    assert federation.intake.uploads.held == 0

    assert (
        take(federation, ticket, FRAME) == seq == federation.intake.acknowledged("ann", ticket.id)
    )
    assert refusal(federation, ticket, frame_of(2.0)) == "duplicate"
    assert federation.board.next(0) is None


def test_tickets_that_do_not_hold(federation: Federation) -> None:
    tickets = begin_round(federation, ["ann", "bob"])
    ann, unknown = tickets["ann"], Ticket("0" * 32, 1, "ann")
    assert refusal(federation, Ticket(ann.id, 1, "bob"), FRAME) == "ticket-other"
    assert refusal(federation, unknown, FRAME) == "ticket-unknown"
    with pytest.raises(TransferError, match="another client's"):
        federation.intake.acknowledged("bob", ann.id)
    with pytest.raises(TransferError, match="no such ticket"):
        federation.intake.arrived("ann", unknown.id)
    assert federation.intake.arrived("ann", ann.id) == 0
    federation.intake.gate = None
    assert refusal(federation, ann, FRAME) == "round-over"
    federation.board.withdraw()
    assert refusal(federation, ann, FRAME) == "round-over"


def test_a_refused_result_costs_an_attempt_and_the_last_benches(federation: Federation) -> None:
    ticket = begin_round(federation, ["ann"])["ann"]
    for attempt in (1, 2):
        assert refusal(federation, ticket) == "codec"
        assert refusal(federation, ticket) == "ticket-unknown"
        offer = federation.board.offered("ann")
        assert offer is not None
        ticket = offer.ticket
        assert ticket.attempt == attempt + 1
    assert refusal(federation, ticket) == "codec"
    assert refusal(federation, ticket, FRAME) == "benched"
    event = federation.board.next(0)
    assert isinstance(event, GaveUp)
    assert event.reason.startswith("the payload cannot be decoded")
    assert len(federation.ledger.refusals(1)) == 3


def test_who_is_quarantined_or_has_no_delta_is_benched_at_once(federation: Federation) -> None:
    class Paper:
        serial = 1

    paper: Certificate = Paper()
    token = federation.register.tokens.create()
    federation.register.tokens.redeem(*token, name="ann", key="k", issue=lambda _: paper)
    for _ in range(3):
        federation.register.refused("ann", "norm")
    tickets = begin_round(federation, ["ann", "bob"])
    assert refusal(federation, tickets["ann"]) == "codec"  # the fourth in a row
    assert refusal(federation, tickets["ann"], FRAME) == "benched"
    assert refusal(federation, tickets["bob"], b"") == "no-delta"
    assert refusal(federation, tickets["bob"], FRAME) == "benched"
    gone = [event.ticket.client for _ in range(2) if isinstance(event := _next(federation), GaveUp)]
    assert gone == ["ann", "bob"]


def _next(federation: Federation) -> object:
    return federation.board.next(0)


def test_who_gives_up_may_say_anything(federation: Federation) -> None:
    ticket = begin_round(federation, ["ann"])["ann"]
    federation.intake.gave_up("ann", "another ticket", "x")
    federation.intake.gave_up("bob", ticket.id, "x")
    assert federation.board.next(0) is None
    federation.intake.gave_up("ann", ticket.id, "no\x1b memory\n" + "y" * 999)
    event = federation.board.next(0)
    assert isinstance(event, GaveUp)
    assert event.reason == "the client gave up: no memory " + "y" * 189  # 200, two did not show
    assert federation.board.offered("ann") is None


def test_a_result_that_cannot_be_written_may_be_sent_again(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticket = begin_round(federation, ["ann"])["ann"]
    full: Future[int] = Future()
    full.set_exception(TransferError("no room", code="disk-full", retry_after=30.0))
    with monkeypatch.context() as patch:
        patch.setattr(federation.committer, "submit", lambda *_: full)
        assert refusal(federation, ticket, FRAME) == "disk-full"
    assert federation.intake.uploads.held == 0
    assert federation.board.offered("ann") == offer_of(ticket)
    assert take(federation, ticket, FRAME) == 1


def test_what_has_arrived_is_taken_even_if_its_client_is_gone(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticket = begin_round(federation, ["ann"])["ann"]
    written: Future[int] = Future()
    submitted = asyncio.Event()

    def submit(*_: object) -> Future[int]:
        submitted.set()
        return written

    async def go() -> None:
        monkeypatch.setattr(federation.committer, "submit", submit)
        call = asyncio.create_task(taken(federation, ticket, FRAME))
        await submitted.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        written.set_result(1)
        while not isinstance(federation.board.next(0), Arrival):
            await asyncio.sleep(0.001)

    asyncio.run(asyncio.wait_for(go(), 10))
    assert federation.board.offered("ann") is None
    assert federation.intake.uploads.held == 0


def test_what_arrived_of_a_cut_upload_stays(federation: Federation) -> None:
    ticket = begin_round(federation, ["ann"])["ann"]

    async def cut() -> None:
        part = FRAME[:16]
        result = result_of(FRAME)
        await federation.intake.take("ann", ticket.id, result, 0, chunks(part))

    with pytest.raises(TransferError, match="16 of 44 bytes arrived"):
        asyncio.run(cut())
    assert federation.intake.arrived("ann", ticket.id) == 16


def test_an_evaluation_is_announced_and_not_written(federation: Federation) -> None:
    ticket = Ticket("e" * 32, 0, "ann", "evaluate")
    federation.board.offer([offer_of(ticket)])
    with pytest.raises(UpdateRefusedError, match="num_examples = 0: from 1 to 1000000"):
        take(federation, ticket, b"", num_examples=0)
    assert take(federation, ticket, b"", metrics={"accuracy": 0.5}) == 0
    event = federation.board.next(0)
    assert isinstance(event, Arrival)
    assert event.update is not None
    assert (event.update.num_examples, event.update.metrics) == (3, {"accuracy": 0.5})
    assert federation.board.offered("ann") is None


def test_what_arrived_for_another_round_is_given_up(federation: Federation) -> None:
    ticket = begin_round(federation, ["ann"])["ann"]

    async def go() -> None:
        federation.intake.loop = asyncio.get_running_loop()
        uploads = federation.intake.uploads
        for id in (ticket.id, "0" * 32):
            uploads.begin(id, 10, sha256="0" * 64, offset=0)
        federation.intake.begin_round()
        await asyncio.sleep(0)
        assert len(uploads) == 1

    asyncio.run(go())
