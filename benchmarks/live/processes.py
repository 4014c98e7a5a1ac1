"""Processes that are started, watched from outside, and ended. Linux only."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeAlias

__all__ = [
    "Process",
    "cpu_seconds",
    "descendants",
    "ended",
    "facts_of",
    "memory_mib",
    "peak_mib",
    "pss_mib",
    "started",
    "until",
]

Process: TypeAlias = subprocess.Popen[str]
_TICKS = os.sysconf("SC_CLK_TCK")
_END = 20.0


@contextmanager
def started(
    arguments: Sequence[str | Path],
    *,
    python: str = sys.executable,
    environment: Mapping[str, str] | None = None,
    log: Path | None = None,
) -> Iterator[Process]:
    """Python running `arguments`, its output readable; it is ended with the block.

    Args:
        arguments: of the interpreter.
        python: the interpreter.
        environment: variables besides this process's own.
        log: where its errors go; this process's own where there is none.
    """
    errors = log.open("ab") if log else None
    process = subprocess.Popen(
        [python, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=errors,
        text=True,
        env=os.environ | dict(environment or {}),
    )
    if errors:
        errors.close()
    with ended(process):
        yield process


@contextmanager
def ended(process: Process) -> Iterator[Process]:
    """Terminate a process and what it started after the block, and kill what does not end."""
    try:
        yield process
    finally:
        family = descendants(process.pid) if process.poll() is None else []
        if family:
            process.terminate()
        try:
            process.wait(_END)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for pid in family[1:]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for pipe in (process.stdin, process.stdout):
            if pipe:
                pipe.close()


def facts_of(process: Process) -> dict[str, Any]:
    """The next line of JSON that a process prints.

    Raises:
        RuntimeError: it ended without one.
    """
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("{"):
            facts: dict[str, Any] = json.loads(line)
            return facts
    raise RuntimeError(f"{process.args!r}: ended with {process.wait()} before it said anything")


def until(true: Callable[[], bool], what: str, *, seconds: float, every: float = 0.005) -> float:
    """Wait for something; the clock (`time.perf_counter`) when it was so.

    Raises:
        TimeoutError: it was not so after so many seconds.
    """
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not after {seconds:g} s")
        time.sleep(every)
    return time.perf_counter()


def cpu_seconds(pid: int) -> float:
    """Processor time of a process, all threads, user and system."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def peak_mib(pid: int) -> float:
    """The most resident memory that a process has had."""
    return _status(pid, "VmHWM:")


def memory_mib(pid: int) -> float:
    """Resident memory of a process."""
    return _status(pid, "VmRSS:")


def pss_mib(pid: int) -> float:
    """Resident memory of a process, pages that it shares divided among their users."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1024
    raise OSError(f"/proc/{pid}/smaps_rollup: no Pss")


def descendants(pid: int) -> list[int]:
    """A process and all that it started, and they started."""
    found = [pid]
    with suppress(OSError):  # it has ended
        for task in list(Path(f"/proc/{pid}/task").iterdir()):
            with suppress(OSError):
                for child in (task / "children").read_text(encoding="ascii").split():
                    found += descendants(int(child))
    return found


def _status(pid: int, key: str) -> float:
    for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
        if line.startswith(key):
            return int(line.split()[1]) / 1024
    raise OSError(f"/proc/{pid}/status: no {key}")
