import asyncio

import pytest

from fedloom.core.errors import TransferError
from fedloom.server.split_room import Room


def test_bytes_are_waited_for_and_given_back() -> None:
    async def run() -> None:
        room = Room(10)
        await room.take(7, 1.0)
        waiting = [asyncio.create_task(room.take(size, 5.0)) for size in (4, 6)]
        await asyncio.sleep(0)
        assert room.taken == 7
        room.give(7)
        await asyncio.gather(*waiting)
        assert room.taken == 10

    asyncio.run(run())


def test_bytes_that_do_not_become_free() -> None:
    async def run() -> None:
        room = Room(10)
        with pytest.raises(TransferError, match="a body of 11 bytes; all bodies together have 10"):
            await room.take(11, 1.0)
        await room.take(7, 1.0)
        with pytest.raises(TransferError, match="no room for a body of 4 bytes: 7 of 10") as busy:
            await room.take(4, 0.01)
        assert (busy.value.code, busy.value.retry_after) == ("busy", 1.0)
        assert room.taken == 7

    asyncio.run(run())
