"""What this machine has: cores and memory, without asking a library that is large."""

import os
import resource
import sys
from collections.abc import Iterator
from pathlib import Path

__all__ = ["cores", "free_memory", "limited_memory", "peak_memory", "resident_memory"]

_UNLIMITED = 2**60
"""What a control group without a limit says is larger."""


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def free_memory(meminfo: Path = Path("/proc/meminfo")) -> int:
    """Bytes of memory that are free for this process; half of all where the system does not say.

    Where control groups limit it (a container, systemd's ``MemoryMax``), no more than they leave.
    """
    left = limited_memory()
    free = _machine_memory(meminfo)
    return free if left is None else min(free, left)


def _machine_memory(meminfo: Path) -> int:
    try:
        lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
        return int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def limited_memory(
    own: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")
) -> int | None:
    """Bytes that the control groups of this process leave it; None where none limits it.

    Of what is in use, files in the page cache do not count: the system takes their memory back.

    Args:
        own: says which groups the process is in (man 7 cgroups).
        root: where groups are mounted, version 2, or version 1 with ``memory`` below.
    """
    left = [found for folder in _groups(own, root) if (found := _left_in(folder)) is not None]
    return max(min(left), 0) if left else None


def _groups(own: Path, root: Path) -> Iterator[Path]:
    """The process's groups that may limit memory, and those that they are in."""
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, kinds, path = [*line.split(":", 2), "", ""][:3]
        if kinds and "memory" not in kinds.split(","):
            continue
        top = root / "memory" if kinds else root
        # In a container the path is that of the outside, and the mount is the group itself.
        folder = top / path.strip("/")
        for each in (folder, *folder.parents):
            yield each
            if each == top:
                break


def _left_in(folder: Path) -> int | None:
    for most, used, idle in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        try:
            limit = int((folder / most).read_text())  # "max" is no number: no limit
            taken = int((folder / used).read_text())
            stat = dict(x.split() for x in (folder / "memory.stat").read_text().splitlines())
        except (OSError, ValueError):
            continue
        if limit < _UNLIMITED:
            return limit - taken + int(stat.get(idle, 0))
    return None


def resident_memory(statm: Path = Path("/proc/self/statm")) -> int:
    """Bytes of memory that this process holds now; the most so far where that is not said."""
    try:
        return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError, ValueError):
        return peak_memory()


def peak_memory(status: Path = Path("/proc/self/status")) -> int:
    """Most bytes that this process has held.

    On Linux the system's count of its usage would begin with what its parent held.
    """
    try:
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(lines["VmHWM"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
