"""Values of a label column into class numbers."""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from fedloom.core.errors import DataError, nearest
from fedloom.tuning.tables import Table, is_null

__all__ = ["class_numbers", "classes_of"]

MAX_LISTED = 20


def classes_of(names: Iterable[str]) -> tuple[str, ...]:
    """The different names in order: by number where all are whole numbers, else as text."""
    found = set(names)
    return tuple(sorted(found, key=int) if all(map(_is_whole, found)) else sorted(found))


def class_numbers(
    table: Table,
    column: str,
    train: NDArray[np.int64],
    given: Sequence[str] = (),
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """The class number of every row, and the classes: those given, or those of the training rows.

    Args:
        table: the data.
        column: its label column; a null is no label.
        train: int64, the training rows.
        given: names of the classes in order; empty for those found.

    Returns:
        int64 ``[N]`` indices into the classes, -1 where there is no label, and the classes' names.

    Raises:
        DataError: a label is neither a name nor a whole number, or one has a value that is not
            among those given, or that no training row has; the message names value and line.
    """
    values = enumerate(table.columns[column])
    names = ["" if is_null(v) else _name(v, table, column, row) for row, v in values]
    classes = tuple(given) or classes_of(names[row] for row in train if names[row])
    if not classes:
        raise DataError(f"{table.source}: {column}: no training example has a label")
    number = {name: index for index, name in enumerate(classes)} | {"": -1}
    for row, name in enumerate(names):
        if name not in number:
            among = "class of the job" if given else "training example"
            raise DataError(_unseen(table, column, row, name, classes, among))
    return np.array([number[name] for name in names], dtype=np.int64), classes


def _is_whole(name: str) -> bool:
    return name.removeprefix("-").isdecimal() and str(int(name)) == name


def _name(value: object, table: Table, column: str, row: int) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bool | np.bool_):
        return "true" if value else "false"
    # data frames turn whole numbers with gaps into floats
    if isinstance(value, int | np.integer | float | np.floating) and float(value).is_integer():
        return str(int(value))
    found = f"{column} = {value!r}: expected a name or a whole number"
    raise DataError(f"{table.where(row)}: {found}")


def _unseen(
    table: Table, column: str, row: int, name: str, classes: Sequence[str], among: str
) -> str:
    what = f"{table.where(row)}: {column} = {name!r}, but no {among} has that label"
    if len(classes) > MAX_LISTED:
        return f"{what} ({len(classes)} labels are known)"
    return f"{what}; {nearest(name, classes)}"
