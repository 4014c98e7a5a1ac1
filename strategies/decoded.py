"""What an update brings, for strategies that look at its numbers."""

from fedloom.core.errors import UpdateRefusedError
from fedloom.core.types import ClientUpdate, Delta

__all__ = ["decoded"]


def decoded(update: ClientUpdate) -> Delta:
    """The delta of an update.

    Raises:
        UpdateRefusedError: it is still encoded, as it came.
    """
    if update.delta is None:
        raise UpdateRefusedError(f"client {update.client!r}: the update is not decoded")
    return update.delta
