"""What this machine has: cores and memory, without asking a library that is large."""

import os
from pathlib import Path

__all__ = ["cores", "free_memory"]


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def free_memory(meminfo: Path = Path("/proc/meminfo")) -> int:
    """Bytes of memory that are free; half of all where the system does not say."""
    try:
        lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
        return int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
