"""Files of a run that are written whole, and what is said where they cannot be."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fedloom.core.durable import write
from fedloom.core.errors import RunError

__all__ = ["PARTIAL", "replaced", "replaced_json", "writing"]

PARTIAL = ".partial"
"""How the name of a file ends that is not whole yet."""


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """One line for what an operating system says when it does not let us write.

    Raises:
        RunError: in place of an `OSError` from within.
    """
    try:
        yield
    except OSError as error:
        where = error.filename or path
        text = f"{where}: cannot be written: {error.strerror}; choose another folder with --out"
        raise RunError(text) from None


def replaced_json(path: Path, value: object) -> None:
    """Replace a file by a value as JSON, as `replaced` does."""
    replaced(path, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode())


def replaced(path: Path, content: bytes) -> None:
    """Replace a file whole: a crash leaves the old one or the new one.

    Raises:
        OSError: it cannot be written.
    """
    partial = path.with_name(path.name + PARTIAL)
    write(partial, content)
    partial.replace(path)
