"""C that the installation compiled where it could; what uses it has another way without."""

import ctypes
import functools
import importlib.util
from collections.abc import Callable

__all__ = ["compiled"]


@functools.cache
def compiled(module: str, declare: Callable[[ctypes.CDLL], None]) -> ctypes.CDLL | None:
    """A compiled library; None where there is none, or it was compiled for another processor.

    Args:
        module: where it stands among the packages, such as ``fedloom.core._fixed_point``.
        declare: sets the types of its functions; raises AttributeError where one is not there.
    """
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        return None
    try:
        found = ctypes.CDLL(spec.origin)
        declare(found)
    except (OSError, AttributeError):  # the latter: of other sources than these
        return None
    return found
