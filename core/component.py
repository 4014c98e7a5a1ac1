"""A named choice with its options, as a configuration writes it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias, Union

__all__ = ["Component", "Option"]

Option: TypeAlias = Union[  # noqa: UP007 (recursive)
    str, int, float, bool, tuple["Option", ...], Mapping[str, "Option"]
]


@dataclass(frozen=True)
class Component:
    """A named choice with its options.

    ``strategy = "fedadam"`` and ``[strategy] name = "fedadam"`` are the same; every other key of
    the table is an option that the named object takes. An option may be a component itself.

    Attributes:
        name: what it is called.
        options: of what is made.
        made: the object itself, where a program gave one; it is no part of what is written down.
    """

    name: str
    options: Mapping[str, Option] = field(default_factory=dict)
    made: object = field(default=None, compare=False, repr=False)
