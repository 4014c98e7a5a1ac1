"""Ctrl-C that is not lost.

Python drops an interrupt that comes within a destructor, and asyncio one that comes in the last
step of what it runs. Here it is noted, too, and raised again at the next place where that does no
harm.
"""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self

__all__ = ["Interrupt"]


class Interrupt:
    """Notes Ctrl-C while it is entered, in the main thread of a program that left it to Python."""

    def __init__(self) -> None:
        self._came = False
        self._before: Any = None

    def __enter__(self) -> Self:
        """Note what comes from now on."""
        main = threading.current_thread() is threading.main_thread()
        if main and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            self._before = signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave Ctrl-C to Python again."""
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    def check(self) -> None:
        """Raise the interrupt that came and was lost.

        Raises:
            KeyboardInterrupt: one came.
        """
        if self._came:
            raise KeyboardInterrupt

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._came = True
        signal.default_int_handler(number, frame)
