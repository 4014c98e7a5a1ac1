"""The made-up cohort that strategies are compared on; needs numpy alone."""

import resource
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

__all__ = ["floor_mib", "guard", "layers", "made_up", "peak_mib"]


def layers(parameters: int, count: int = 16) -> list[int]:
    """Sizes of the tensors of a model of so many parameters: alike, but for the last."""
    size = parameters // count
    return [size] * (count - 1) + [parameters - size * (count - 1)]


def made_up(client: int, parameters: int) -> NDArray[np.float32]:
    """A delta: float32 ``[parameters]``, the same for the same client."""
    noise = np.random.Generator(np.random.SFC64(client)).standard_normal(parameters, np.float32)
    noise *= np.float32(0.01)
    return noise


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
