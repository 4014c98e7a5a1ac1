"""Which rows train, validate and test, and whose the training rows are."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedloom.core.errors import ConfigError, DataError
from fedloom.core.job import DataConfig
from fedloom.core.seeds import stream
from fedloom.tuning.tables import Column, Table

__all__ = ["Splits", "owners", "split_rows"]

Rows = NDArray[np.int64]

HELD_OUT = 10  # without a split column, one example in so many is held out
NAMES = {
    "train": "train",
    "training": "train",
    "valid": "valid",
    "validation": "valid",
    "val": "valid",
    "dev": "valid",
    "test": "test",
    "0": "train",
    "1": "test",
    "false": "train",
    "true": "test",
}


@dataclass(frozen=True, eq=False)
class Splits:
    """Row numbers of each part, ascending (int64)."""

    train: Rows
    valid: Rows
    test: Rows


def split_rows(table: Table, config: DataConfig, *, seed: int, own: bool = False) -> Splits:
    """The rows of each split, evaluation splits cut to ``config.max_test`` by a seeded choice.

    A split column says ``train``, ``valid`` or ``test`` (or marks test rows with 1 or true).
    Without one, every tenth example is held out as ``test``, by a hash of its content: the same
    example is held out whatever else is in the file, and two copies of it stay together.

    Args:
        table: the data.
        config: says the split column and ``max_test``.
        seed: of the choice.
        own: the file of one client of many: where the hash holds out nothing, nothing is.

    Raises:
        DataError: a value of the split column is another, or nothing is left to train on (a file
            to evaluate on needs nothing where ``config.classes`` are given).
    """
    if config.split:
        marks = _marks(table, config.split)
    else:
        inputs = [table.columns[name] for name in (config.prompt, config.text) if name]
        marks = np.where(_held_out(inputs, len(table), own), "test", "train")
    train = np.flatnonzero(marks == "train")
    if not len(train) and (own or not config.classes):
        raise DataError(f"{table.source}: no training rows among {len(table)}")
    valid, test = (_at_most(marks, name, config.max_test, seed) for name in ("valid", "test"))
    return Splits(train, valid, test)


def _marks(table: Table, column: str) -> NDArray[Any]:
    values = [str(value).strip().lower() for value in table.columns[column]]
    for row, value in enumerate(values):
        if value not in NAMES:
            found = f"{column} = {value!r}: expected train, valid or test"
            raise DataError(f"{table.where(row)}: {found}")
    return np.array([NAMES[value] for value in values])


def _held_out(inputs: Sequence[Column], count: int, own: bool) -> NDArray[np.bool_]:
    digests = np.array([_digest([c[row] for c in inputs]) for row in range(count)], np.uint64)
    held: NDArray[np.bool_] = digests % np.uint64(HELD_OUT) == 0
    if not held.any() and count > 1 and not own:
        held[digests.argmin()] = True  # a handful of rows still needs something to test on
    return held


def _digest(parts: Sequence[object]) -> int:
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        digest.update(part.tobytes() if isinstance(part, np.ndarray) else str(part).encode())
        digest.update(b"\0")
    return int.from_bytes(digest.digest(), "little")


def _at_most(marks: NDArray[Any], name: str, limit: int, seed: int) -> Rows:
    rows = np.flatnonzero(marks == name)
    if not 0 < limit < len(rows):
        return rows
    return rows[stream(seed, f"data/{name}").choose(len(rows), limit)]


def owners(
    table: Table, train: Rows, config: DataConfig
) -> tuple[Rows, NDArray[np.int64] | None, tuple[str, ...]]:
    """Whose each training row is, after the limits on clients and on rows of a client.

    Args:
        table: the data.
        train: int64, the training rows in file order.
        config: says the client column, ``max_clients`` (those with most rows are kept, ties by
            name) and ``max_examples`` (the first so many of each in file order).

    Returns:
        The training rows that stay (int64 ``[N]``), the client of each as an index into the names
        (int64 ``[N]``, None without a client column), and the names, sorted.

    Raises:
        ConfigError: a limit is set, but there is no client column.
        DataError: a training row names no client.
    """
    if not config.client:
        for key in ("max_clients", "max_examples"):
            if getattr(config, key):
                raise ConfigError(f"data.{key} = {getattr(config, key)}: needs data.client")
        return train, None, ()
    column = table.columns[config.client]
    names, codes = np.unique(
        [_client(column[row], table, config.client, row) for row in train], return_inverse=True
    )
    keep = np.ones(len(train), dtype=bool)
    if config.max_clients:
        largest = np.argsort(-np.bincount(codes), kind="stable")[: config.max_clients]
        keep &= np.isin(codes, largest)
    if config.max_examples:
        keep &= _rank(codes) < config.max_examples
    present, dense = np.unique(codes[keep], return_inverse=True)
    return train[keep], dense.astype(np.int64), tuple(str(names[code]) for code in present)


def _client(value: object, table: Table, column: str, row: int) -> str:
    if isinstance(value, str | int | np.integer) and str(value).strip():
        return str(value)
    found = f"{column} = {value!r}: expected the name of a client"
    raise DataError(f"{table.where(row)}: {found}")


def _rank(codes: NDArray[np.intp]) -> NDArray[np.int64]:
    """int64 ``[N]``: how many rows of the same client come before each row."""
    order = np.argsort(codes, kind="stable")
    starts = np.cumsum(np.bincount(codes)) - np.bincount(codes)
    rank = np.empty(len(codes), dtype=np.int64)
    rank[order] = np.arange(len(codes)) - starts[codes[order]]
    return rank
