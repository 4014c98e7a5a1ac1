"""How much memory a process has held at most."""

from pathlib import Path

import torch

__all__ = ["file_rss_mib", "peak_mib", "peak_rss_mib"]


def peak_rss_mib() -> float:
    """Peak resident memory of this process's present program, in MiB.

    ``getrusage`` would also count the program that started this one.
    """
    return _status_mib("VmHWM")


def file_rss_mib() -> float:
    """Resident pages of files that this process has mapped, in MiB: the system may drop them."""
    return _status_mib("RssFile")


def peak_mib(device: str) -> float:
    """Peak memory of the device that trains, in MiB."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    return peak_rss_mib()


def _status_mib(key: str) -> float:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) / 1024
    raise OSError(f"/proc/self/status: no {key}; this needs Linux")
