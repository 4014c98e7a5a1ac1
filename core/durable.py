"""The one way to make a file, or the names in a folder, durable."""

import os
from pathlib import Path

__all__ = ["sync", "write"]


def sync(path: Path) -> None:
    """Wait until a file's bytes, or the names in a folder, are on the disk.

    Raises:
        OSError: they are not.
    """
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write(path: Path, data: bytes) -> None:
    """Make a file of these bytes, which are on the disk when this returns; its name may not be.

    Raises:
        OSError: they are not.
    """
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
