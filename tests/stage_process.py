"""``fedloom stage`` as its users start it."""

import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from command_forks import Process, start

HELD = re.compile(r"blocks \d+ to \d+ of \d+: ([0-9.]+) MB in (\d+) bits")
LINE = re.compile(r"serving at (\S+):(\d+), weights ([0-9a-f]{64})")


@dataclass(frozen=True)
class Stage:
    """A stage that runs.

    Attributes:
        process: of it.
        port: where it listens.
        weights: what it says that it serves.
        size: of it in MB.
        bits: of a weight.
    """

    process: Process
    port: int
    weights: str
    size: float
    bits: int

    @property
    def address(self) -> str:
        """As a job names it."""
        return f"127.0.0.1:{self.port}"


@contextmanager
def stage(folder: Path, blocks: str, *words: str) -> Iterator[Stage]:
    """A stage that runs, and ends well unless it was killed."""
    with stages((folder, blocks, *words)) as (one,):
        yield one


@contextmanager
def stages(*each: tuple[Path | str, ...]) -> Iterator[list[Stage]]:
    """Stages that start at the same time: of each the folder, its blocks, and further words."""
    running = [_begun(folder, *map(str, words)) for folder, *words in each]
    try:
        yield [_ready(process) for process in running]
        for process in running:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                assert process.wait(20) == 0
    finally:
        for process in running:
            process.kill()
            process.communicate()


def _begun(folder: Path | str, blocks: str, *words: str) -> Process:
    return start(["stage", folder, "--blocks", blocks, *words], stderr=2)


def _ready(process: Process) -> Stage:
    assert process.stdout is not None
    held = HELD.fullmatch(process.stdout.readline().strip())
    found = LINE.fullmatch(process.stdout.readline().strip())
    assert held is not None
    assert found is not None
    return Stage(process, int(found[2]), found[3], float(held[1]), int(held[2]))
