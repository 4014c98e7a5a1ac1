"""Whether what went wrong is a disk that has no room: then waiting helps, and nothing else does."""

import errno
import sqlite3

__all__ = ["is_full"]

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_TABLES = ("SQLITE_FULL", "SQLITE_IOERR")
_SAYING = tuple(f"os error {number})" for number in sorted(_FULL))
"""How safetensors ends a message of the operating system's."""


def is_full(error: BaseException | None) -> bool:
    """Whether an error, or what it came of, is that nothing more fits on a disk."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _FULL:
            return True
        if isinstance(error, sqlite3.Error) and _name(error).startswith(_TABLES):
            return True
        if str(error).endswith(_SAYING):
            return True
        error = error.__cause__ or error.__context__
    return False


def _name(error: sqlite3.Error) -> str:
    return str(getattr(error, "sqlite_errorname", ""))
