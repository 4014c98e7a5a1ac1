"""Whether the torch that is installed runs on this processor, asked before it is loaded here.

A wheel with instructions that a processor lacks ends the process without a word. Of the wheels for
ARM in the package index, those up to 2.9.1 run on every 64-bit processor; 2.10 has instructions
that a Raspberry Pi 4, 3 or Zero 2 W lacks; from 2.11 on they are built for CUDA.
"""

import platform
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version

from fedloom.core.errors import RunError

__all__ = ["RUNS_ON_ALL", "require_torch", "trial"]

RUNS_ON_ALL = "2.9.1"
"""The last version whose wheel for ARM runs on all of its 64-bit processors."""


def require_torch(attempt: Callable[[], str] | None = None) -> None:
    """Find out whether torch can be loaded: on ARM, where it is newer than `RUNS_ON_ALL`.

    Args:
        attempt: loads it in a process of its own, as `trial` does.

    Raises:
        RunError: it cannot; which version can is said.
    """
    found = _installed()
    if platform.machine() != "aarch64" or not found or _numbers(found) <= _numbers(RUNS_ON_ALL):
        return
    why = (attempt or trial)()
    if why:
        raise RunError(
            f"torch {found} cannot run on this processor ({why}); "
            f"{RUNS_ON_ALL} can: pip install torch=={RUNS_ON_ALL}"
        )


def trial(statement: str = "import torch") -> str:
    """Why a process that runs a statement ends badly; empty where it does not."""
    command = [sys.executable, "-c", statement]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode < 0:
        return (signal.strsignal(-done.returncode) or f"signal {-done.returncode}").lower()
    lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
    return lines[-1] if done.returncode else ""


def _installed() -> str:
    try:
        return version("torch")
    except PackageNotFoundError:
        return ""


def _numbers(text: str) -> tuple[int, ...]:
    """Those of a version, without what follows a plus or a letter: 2.10.0a0+cpu is (2, 10, 0)."""
    return tuple(int(part) for part in re.findall(r"\d+", re.split(r"[+a-z]", text)[0]))
