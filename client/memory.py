"""The memory that this process may take, and tasks run within it. Nothing here loads torch."""

import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from fedloom.backbones.allocator import give_back
from fedloom.client.logs import log
from fedloom.client.reasons import out_of_memory
from fedloom.client.settings import ClientSettings
from fedloom.client.which_engine import engine_of
from fedloom.core.errors import ModelError
from fedloom.core.machine import free_memory, resident_memory
from fedloom.core.sizes import bytes_of, megabytes
from fedloom.tuning.ways import Way, best, least, said, smaller

__all__ = ["Budget", "Memory", "allowed", "at_rest", "bare", "spare"]

T = TypeVar("T")

_BARE = {"torch": 270 * 10**6, "onnx": 115 * 10**6}
"""Bytes that a client holds that has loaded what runs models, and no model; measured, on x86-64."""


def allowed(settings: ClientSettings) -> int:
    """Bytes that the process may take: what the owner says, or half of what is free beside it."""
    told = bytes_of("memory", settings.memory)
    return told or resident_memory() + free_memory() // 2


def bare(settings: ClientSettings) -> int:
    """Bytes that the process takes with its engine, and without a model."""
    return _BARE[engine_of(settings)]


def at_rest() -> int:
    """Bytes that this process holds, after what nobody uses has gone back to the system."""
    gc.collect()
    give_back()
    return resident_memory()


def spare(settings: ClientSettings) -> int:
    """Bytes that a model and its training may take of what the process may, before it is loaded."""
    return max(allowed(settings) - bare(settings), 1)


@dataclass(frozen=True)
class Budget:
    """Memory of this process before a model is loaded.

    Attributes:
        most: bytes that it may take.
        bare: bytes that it takes.
    """

    most: int
    bare: int


class Memory:
    """Chooses how tasks are run, and runs them, so that the process stays within its budget.

    Attributes:
        base: bytes that the process takes while no task runs.
        refused: whether the system has refused memory.

    Args:
        most: bytes that the process may take.
        base: see above.
        give_back: lets the system have what is not in use, after a task that took too much.
    """

    def __init__(self, most: int, base: int, *, give_back: Callable[[], object]) -> None:
        self.base, self.refused = base, False
        self._most, self._give_back = most, give_back
        self._learned = most  # less, once a way took more than there was
        self._told: set[str] = set()

    def room(self, held: int = 0) -> int:
        """Bytes that a task may take, where so many are held beside the base."""
        return min(self._most - self.base - held, self._learned)

    def choose(self, ways: Sequence[Way], held: int = 0) -> Way:
        """The way that a task is run in.

        Args:
            ways: all there are.
            held: bytes that are kept from task to task, and count as taken.

        Raises:
            ModelError: none fits.
        """
        way = best(ways, self.room(held))
        if way is None:
            raise ModelError(self._too_small(ways, held))
        self._tell(way, ways)
        return way

    def run(self, ways: Sequence[Way], way: Way, train: Callable[[Way], T]) -> T:
        """Run a task; where memory runs out, again in the next smaller way, until none is left.

        Args:
            ways: all there are.
            way: the first to try.
            train: runs the task in a way, from the start.

        Raises:
            ModelError: memory ran out in the smallest way, too.
        """
        while True:
            try:
                return train(way)
            except (MemoryError, RuntimeError) as error:
                if not out_of_memory(error):
                    raise
                reason = str(error).partition("\n")[0][:200] or type(error).__name__
            # Out of the handler: the traceback held what the task had in memory.
            self.refused = True
            self._give_back()
            found = smaller(ways, way)
            if found is None:
                raise ModelError(f"out of memory in the smallest way there is: {reason}")
            log.warning("out of memory (%s): again with %s", reason, said(found))
            way, self._learned = found, found.bytes

    def _tell(self, way: Way, ways: Sequence[Way]) -> None:
        """Say once what was chosen, and why."""
        whole = max(ways, key=lambda each: (each.examples, not each.recompute))
        text = f"{said(way)}: {megabytes(self.base + way.bytes)} at most"
        if way != whole:
            text += f" ({said(whole)}: {megabytes(self.base + whole.bytes)})"
        if text not in self._told:
            may, base = megabytes(self._most), megabytes(self.base)
            log.info("memory: %s may be taken, %s are; %s", may, base, text)
        self._told.add(text)

    def _too_small(self, ways: Sequence[Way], held: int) -> str:
        way = least(ways)
        need = megabytes(self.base + held + way.bytes)
        text = f"{megabytes(self._most)} may be taken here; the smallest that would do is {need}"
        return f"memory: {text} ({said(way)})"
