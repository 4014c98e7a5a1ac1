import asyncio

import pytest
from small_server import offer_of

from fedloom.core.types import Client
from fedloom.server.board import Board, Stopping
from fedloom.server.records import Ticket

ANN, BOB = (offer_of(Ticket(name * 32, 1, name)) for name in ("a", "b"))


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_an_offer_hangs_until_it_is_taken_down() -> None:
    board = Board()
    board.offer([ANN, BOB])
    assert (board.offered("a"), board.offered("b"), board.offered("c")) == (ANN, BOB, None)
    board.withdraw(["a", "nobody"])
    assert (board.offered("a"), board.offered("b")) == (None, BOB)
    board.withdraw()
    assert board.offered("b") is None


def test_a_ticket_is_replaced_where_its_offer_still_hangs() -> None:
    board, again = Board(), Ticket("c" * 32, 1, "a", attempt=2)
    board.replace(ANN, again)
    assert board.offered("a") is None
    board.offer([ANN])
    board.replace(ANN, again)
    found = board.offered("a")
    assert found == offer_of(again)
    board.replace(ANN, ANN.ticket)  # that offer is gone
    assert board.offered("a") is found


def test_who_waits_is_woken_by_an_offer_of_its_own() -> None:
    board = Board()

    async def go() -> None:
        waiting = asyncio.create_task(board.wait("a", 60))
        await asyncio.sleep(0)
        assert board.counts == (0, 1)
        await asyncio.to_thread(board.offer, [BOB])
        assert not waiting.done()
        await asyncio.to_thread(board.offer, [ANN])
        assert await waiting is ANN
        assert await board.wait("a", 60) is ANN  # at once
        assert board.counts == (0, 0)

    asyncio.run(go())


def test_waiting_ends_with_time_with_a_newer_call_and_with_the_federation() -> None:
    board = Board()

    async def go() -> None:
        assert await board.wait("a", 0.0) is None
        assert await board.wait("a", 0.01) is None
        older = asyncio.create_task(board.wait("a", 60))
        await asyncio.sleep(0)
        newer = asyncio.create_task(board.wait("a", 60))
        assert await older is None
        assert not newer.done()
        board.finish("over")
        assert await newer is None
        assert await board.wait("b", 60) is None
        assert board.counts == (0, 0)

    asyncio.run(go())


def test_nobody_waits_for_a_server_that_is_about_to_end() -> None:
    async def play() -> None:
        board = Board()
        waiting = asyncio.ensure_future(board.wait("a", 60.0))
        await asyncio.sleep(0)
        board.release()
        assert await asyncio.wait_for(waiting, 10.0) is None
        assert await asyncio.wait_for(board.wait("b", 60.0), 10.0) is None
        assert board.finished("a") == ""  # it is to come back

    asyncio.run(play())


def test_a_call_that_is_cut_does_not_wait_any_more() -> None:
    board = Board()

    async def go() -> None:
        waiting = asyncio.create_task(board.wait("a", 60))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert board.counts == (0, 0)
        board.offer([ANN])

    asyncio.run(go())


def test_who_is_there_is_who_was_heard_of_lately_and_has_examples() -> None:
    clock = Clock()
    board = Board(clock)
    board.seen("b", 5)
    board.seen("a", 3)
    board.seen("c", 0)
    assert board.present(10) == (Client("a", 3), Client("b", 5))
    clock.now = 11.0
    board.touch("a")
    board.touch("nobody")
    assert board.present(10) == (Client("a", 3),)
    board.forget("a")
    assert board.present(10) == ()
    assert board.counts == (2, 0)


def test_what_a_device_says_of_itself_is_known_of_the_client() -> None:
    board = Board(Clock())
    board.seen("a", 3, tier="phone", memory=2**30)
    assert board.present(10) == (Client("a", 3, "phone", 2**30),)


def test_who_waits_counts_as_there() -> None:
    clock = Clock()
    board = Board(clock)

    async def go() -> None:
        board.seen("a", 3)
        waiting = asyncio.create_task(board.wait("a", 60))
        await asyncio.sleep(0)
        clock.now = 1000.0
        assert board.present(10) == (Client("a", 3),)
        waiting.cancel()

    asyncio.run(go())


def test_the_end_is_told_to_each() -> None:
    clock = Clock()
    board = Board(clock)
    board.seen("a", 3)
    board.seen("b", 3)
    assert board.finished("a") == ""
    board.finish("all rounds are done")
    assert board.unaware(10) == 2
    assert board.finished("a") == "all rounds are done"
    assert board.unaware(10) == 1
    clock.now = 11.0  # nobody waits for who was not heard of
    assert board.unaware(10) == 0


def test_events_come_in_their_order() -> None:
    board = Board()
    assert board.next(0.0) is None
    board.events.put(Stopping())
    assert board.next(0.0) == Stopping()
