"""A named choice with its options, as a configuration writes it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias, Union

__all__ = ["Component", "Option"]

Option: TypeAlias = Union[str, int, float, bool, tuple["Option", ...]]  # noqa: UP007 (recursive)


@dataclass(frozen=True)
class Component:
    """A named choice with its options.

    ``strategy = "fedadam"`` and ``[strategy] name = "fedadam"`` are the same; every other key of
    the table is an option that the named object takes.
    """

    name: str
    options: Mapping[str, Option] = field(default_factory=dict)
