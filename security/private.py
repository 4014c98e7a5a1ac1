"""Files that nobody else may read, written whole or not at all."""

import os
import secrets
import stat
from pathlib import Path

from fedloom.core.durable import sync
from fedloom.core.errors import IdentityError

__all__ = ["make_folder", "read_private", "write_file"]


def make_folder(folder: Path) -> None:
    """Make a folder that only its owner may enter; one that is there stays as it is."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)


def write_file(path: Path, data: bytes) -> None:
    """Write a file that only its owner may read, durably; a reader sees the old or the new one.

    The mode is set as the file is made, so at no moment can anybody else open it.
    """
    partial = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    sync(path.parent)


def read_private(path: Path) -> bytes:
    """Return what a file with a key holds.

    Raises:
        IdentityError: somebody else may read it: whoever did is this machine from then on.
        FileNotFoundError: there is none.
    """
    handle = os.open(path, os.O_RDONLY)
    with os.fdopen(handle, "rb") as file:
        mode = stat.S_IMODE(os.fstat(handle).st_mode)
        if mode & 0o077:
            raise IdentityError(
                f"{path}: holds a key, and others may read it (mode {mode:04o}): "
                f"if nobody has, chmod 600 it"
            )
        return file.read()
