"""Where the legs of all sessions are done: in threads that are not those of the calls."""

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
    """First come, first served. What has begun ends, whatever becomes of who asked for it.

    Args:
        threads: more than one for a host whose sessions wait for each other: one for each.
    """

    def __init__(self, threads: int = 1) -> None:
        self._thread = ThreadPoolExecutor(threads, thread_name_prefix="fedloom-split")

    async def work(self, session: Session, leg: LegIn) -> Answered:
        """Do a leg; see `Session.work`."""
        return await self.do(session.work, leg)

    def ask(self, call: Callable[[*Given], Found], *given: *Given) -> Found:
        """Call in the thread, and wait for it in another one that is no event loop's."""
        return self._thread.submit(call, *given).result()

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
