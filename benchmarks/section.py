"""What a benchmark of several tables is made of."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from running import Program, Result
from tables import Table

__all__ = ["Section"]

Setting = TypeVar("Setting")
"""What all sections of a benchmark share."""


@dataclass(frozen=True)
class Section(Generic[Setting]):
    """One section.

    Attributes:
        title: above its table.
        programs: what is run.
        table: rows of cells, the first being the header.
    """

    title: str
    programs: Callable[[Setting], list[Program]]
    table: Callable[[Sequence[Result]], Table]
