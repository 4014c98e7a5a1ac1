"""Where models are kept, and how a folder comes to be there: whole, or not at all."""

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from fedloom.core.errors import ModelError

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

__all__ = ["cache_root", "install"]


def cache_root() -> Path:
    """The cache folder: ``$FEDLOOM_CACHE``, or else ``~/.cache/fedloom``."""
    named = os.environ.get("FEDLOOM_CACHE", "")
    return Path(named).expanduser() if named else Path.home() / ".cache" / "fedloom"


def install(folder: Path, fill: Callable[[Path], None]) -> Path:
    """Make `folder` once: `fill` writes into an empty staging folder, which then takes its name.

    Another process that asks for the same folder meanwhile waits, and finds it made. A process
    that is stopped half-way leaves nothing under the name.

    Raises:
        ModelError: the cache cannot be written to.
    """
    if folder.is_dir():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _locked(folder.with_name(f"{folder.name}.lock")):
            if not folder.is_dir():
                _fill_and_rename(folder, fill)
    except OSError as error:
        where = error.filename or folder.parent
        text = f"{where}: {error.strerror or error}; $FEDLOOM_CACHE names another cache folder"
        raise ModelError(text) from None
    return folder


def _fill_and_rename(folder: Path, fill: Callable[[Path], None]) -> None:
    # beside the target, because a rename is atomic only within one file system
    staging = Path(tempfile.mkdtemp(prefix=f"{folder.name}.", dir=folder.parent))
    try:
        content = staging / "content"
        content.mkdir()
        fill(content)
        content.rename(folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock that the system frees when the process ends, however it ends."""
    with path.open("a") as file:
        if sys.platform == "win32":
            msvcrt.locking(file.fileno(), msvcrt.LK_LOCK, 1)
        else:
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
