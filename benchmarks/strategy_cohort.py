"""The made-up cohort that strategies are compared on; needs numpy alone."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

__all__ = ["layers", "made_up", "peak_mib"]


def layers(parameters: int, count: int = 16) -> list[int]:
    """Sizes of the tensors of a model of so many parameters: alike, but for the last."""
    size = parameters // count
    return [size] * (count - 1) + [parameters - size * (count - 1)]


def made_up(client: int, parameters: int) -> NDArray[np.float32]:
    """A delta: float32 ``[parameters]``, the same for the same client."""
    noise = np.random.Generator(np.random.SFC64(client)).standard_normal(parameters, np.float32)
    noise *= np.float32(0.01)
    return noise


def peak_mib() -> float:
    """Peak resident memory of this process, in MiB."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise OSError("/proc/self/status: no VmHWM; this needs Linux")
