"""The made-up cohort that strategies are compared on; needs numpy alone."""

import resource
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

__all__ = ["PageCache", "floor_mib", "guard", "layers", "made_up", "peak_mib"]


def layers(parameters: int, count: int = 16) -> list[int]:
    """Sizes of the tensors of a model of so many parameters: alike, but for the last."""
    size = parameters // count
    return [size] * (count - 1) + [parameters - size * (count - 1)]


def made_up(client: int, parameters: int) -> NDArray[np.float32]:
    """A delta: float32 ``[parameters]``, the same for the same client."""
    noise = np.random.Generator(np.random.SFC64(client)).standard_normal(parameters, np.float32)
    noise *= np.float32(0.01)
    return noise


class PageCache:
    """Pages of the kernel's, for a strategy that writes its updates to a file.

    A virtual machine gets a page from its host when it first writes to it, which takes several
    times as long as what is written; whose time that is depends on what ran before. A file of the
    cohort's size takes the pages first, and gives them back as the strategy's file needs them.

    Args:
        size: bytes.
    """

    def __init__(self, size: int) -> None:
        self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115
        self._size, chunk = size, bytes(4 << 20)
        for start in range(0, size, len(chunk)):
            self._file.write(chunk[: size - start])

    def give_back(self, size: int) -> None:
        """So many bytes."""
        self._size = max(self._size - size, 0)
        self._file.truncate(self._size)


def floor_mib() -> float:
    """Resident memory of this process with all that it imports, before it holds anything."""
    made_up(0, 1)  # numpy loads its generators with the first use
    return _status("VmRSS")


def peak_mib() -> float:
    """Peak resident memory of this process, in MiB."""
    return _status("VmHWM")


def guard() -> None:
    """Fail with MemoryError rather than take more memory than the machine has free."""
    free = next(line for line in _lines("/proc/meminfo") if line.startswith("MemAvailable:"))
    most = int(free.split()[1]) * 1024
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))


def _status(name: str) -> float:
    for line in _lines("/proc/self/status"):
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) / 1024
    raise OSError(f"/proc/self/status: no {name}; this needs Linux")


def _lines(path: str) -> list[str]:
    return Path(path).read_text(encoding="ascii").splitlines()
