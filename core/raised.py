"""What code of somebody else's has raised, told in one line that names theirs."""

import sys
from pathlib import Path
from types import FrameType, TracebackType

__all__ = ["place_of", "told"]


def told(error: BaseException) -> str:
    """The kind of an error, its message and the line that it came from, as one line of text.

    >>> told(ValueError("one\\ntwo"))
    'raised ValueError: one two'
    """
    message = " ".join(str(error).split())
    place = place_of(error)
    text = f"raised {type(error).__name__}" + (f": {message}" if message else "")
    return f"{text} ({place})" if place else text


def place_of(error: BaseException | None) -> str:
    """``file:line`` of the last step of an error that somebody else's module took.

    Somebody else is the first module on the way that is neither of this package nor of Python's
    own; of what that calls in turn, only its own package counts. Empty where everything that was
    run is this package's.
    """
    place, package, step = "", "", None if error is None else error.__traceback__
    while step is not None:
        owner = _package(step.tb_frame)
        if owner not in ("fedloom", *sys.stdlib_module_names):
            package = package or owner
            if owner == package:
                place = _written(step)
        step = step.tb_next
    return place


def _package(frame: FrameType) -> str:
    name: str = frame.f_globals.get("__name__", "")
    return name.partition(".")[0]


def _written(step: TracebackType) -> str:
    path = Path(step.tb_frame.f_code.co_filename)
    if path.is_relative_to(Path.cwd()):
        path = path.relative_to(Path.cwd())
    return f"{path}:{step.tb_lineno}"
