"""Bytes that bodies may take at once, of all sessions together."""

import asyncio

from fedloom.core.errors import TransferError

__all__ = ["Room"]


class Room:
    """A bound on the bytes of bodies that arrive, or wait to be worked on. For one event loop.

    Args:
        size: bytes.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.taken = 0
        self._waiting: set[asyncio.Future[None]] = set()

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
            async with asyncio.timeout(patience):
                while self.taken + size > self.size:
                    await self._freed()
        except TimeoutError:
            text = f"no room for a body of {size} bytes: {self.taken} of {self.size} are taken"
            raise TransferError(text, code="busy", retry_after=1.0) from None
        self.taken += size

    def give(self, size: int) -> None:
        """Give bytes back."""
        self.taken -= size
        for waiting in self._waiting:
            if not waiting.done():
                waiting.set_result(None)

    async def _freed(self) -> None:
        waiting = asyncio.get_running_loop().create_future()
        self._waiting.add(waiting)
        try:
            await waiting
        finally:
            self._waiting.discard(waiting)
