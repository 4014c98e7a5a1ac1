"""Where the legs of all sessions are done: one after the other, in a thread of their own."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar, TypeVarTuple

from fedloom.server.split_messages import Answered, LegIn
from fedloom.server.split_session import Session

__all__ = ["Course"]

Found = TypeVar("Found")
Given = TypeVarTuple("Given")


class Course:
    """First come, first served. What has begun ends, whatever becomes of who asked for it."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="fedloom-split")

    async def work(self, session: Session, leg: LegIn) -> Answered:
        """Do a leg; see `Session.work`."""
        return await self.do(session.work, leg)

    def begin(self, call: Callable[[*Given], object], *given: *Given) -> None:
        """Call in the thread, some time, in its turn; nobody waits for it."""
        self._thread.submit(call, *given)

    async def do(self, call: Callable[[*Given], Found], *given: *Given) -> Found:
        """Call in the thread."""
        running = asyncio.get_running_loop().run_in_executor(self._thread, call, *given)
        return await asyncio.shield(running)

    def close(self) -> None:
        """Wait for what runs; nothing more begins."""
        self._thread.shutdown(cancel_futures=True)
