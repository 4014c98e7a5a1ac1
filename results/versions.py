"""What computed a run: versions and processor, read without importing any of the libraries."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

__all__ = ["versions"]

_LIBRARIES = ("fedloom", "torch", "numpy", "tokenizers", "safetensors", "transformers", "peft")


def versions() -> dict[str, str]:
    """Versions by name; a library that is not installed is left out."""
    found = {name: _version(name) for name in _LIBRARIES}
    return {
        **{name: text for name, text in found.items() if text},
        "python": f"{platform.python_version()} ({platform.python_implementation()})",
        "platform": platform.platform(),
        "cpu": f"{_processor()}, {_cores()} cores",
    }


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return _own_version() if name == "fedloom" else ""


def _own_version() -> str:
    """The version in the source tree, where fedloom runs from it without being installed."""
    from fedloom import __version__

    return __version__


def _processor() -> str:
    """Model name of the processor: Linux says it in a file, others through `platform`."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()


def _cores() -> int:
    """Cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1
