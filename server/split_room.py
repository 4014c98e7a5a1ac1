"""Bytes that bodies may take at once, of all sessions together."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fedloom.core.errors import TransferError

__all__ = ["Room"]


class Room:
    """A bound on the bytes of bodies that arrive, or wait to be worked on.

    Args:
        size: bytes.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.taken = 0
        self._freed = asyncio.Condition()

    async def take(self, size: int, patience: float) -> None:
        """Wait until so many bytes are free, and take them.

        Raises:
            TransferError: they do not become free in time (``busy``), or never will
                (``too-large``).
        """
        if size > self.size:
            text = f"a body of {size} bytes; all bodies together have {self.size}"
            raise TransferError(text, code="too-large")
        try:
            async with asyncio.timeout(patience), self._freed:
                await self._freed.wait_for(lambda: self.taken + size <= self.size)
                self.taken += size
        except TimeoutError:
            text = f"no room for a body of {size} bytes: {self.taken} of {self.size} are taken"
            raise TransferError(text, code="busy", retry_after=1.0) from None

    async def give(self, size: int) -> None:
        """Give bytes back."""
        async with self._freed:
            self.taken -= size
            self._freed.notify_all()

    @asynccontextmanager
    async def of(self, size: int, patience: float) -> AsyncIterator[None]:
        """Bytes for as long as a body is worked on."""
        await self.take(size, patience)
        try:
            yield
        finally:
            await self.give(size)
