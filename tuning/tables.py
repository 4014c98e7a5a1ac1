"""Data files and rows into columns: CSV, JSONL, Parquet, NPZ; only the columns asked for.

Every mistake is a `DataError` in one line that says where it stands and what was expected.
"""

import csv
import difflib
import gzip
import json
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fedloom.core.errors import DataError

__all__ = ["Column", "Table", "array_names", "is_null", "read_table", "table_of"]

Column: TypeAlias = Sequence[object] | NDArray[Any]
Rows: TypeAlias = Iterator[tuple[int, Sequence[object]]]


@dataclass(frozen=True, eq=False)
class Table:
    """Columns of equal length.

    Attributes:
        source: what messages call the place it came from.
        columns: the values by column name.
        lines: int64 ``[N]``, line of each row in its file (number of the row, from 1, where the
            source has no lines).
        dropped: rows left out because a needed value was null or empty.
    """

    source: str
    columns: Mapping[str, Column]
    lines: NDArray[np.int64]
    dropped: int = 0

    def __len__(self) -> int:
        return len(self.lines)

    def where(self, row: int) -> str:
        """The place of a row, for a message."""
        return f"{self.source}, line {self.lines[row]}"


def read_table(path: Path, columns: Iterable[str], *, needed: Collection[str] = ()) -> Table:
    """Read columns of a ``.csv``, ``.jsonl`` (either also ``.gz``), ``.parquet`` or ``.npz`` file.

    Args:
        path: the file; its suffix says the format.
        columns: which columns to read.
        needed: columns whose value may not be null, empty or NaN: other rows are dropped.

    Raises:
        DataError: the file or a column is missing, a line is malformed, or no rows are left.
    """
    wanted = list(dict.fromkeys(columns))
    suffix = "".join(path.suffixes[-2:] if path.suffix == ".gz" else path.suffixes[-1:]).lower()
    if suffix not in _READERS:
        known = ", ".join(_READERS)
        raise DataError(f"{path}: unknown format {suffix or '(no suffix)'!r}; known: {known}")
    try:
        table = _READERS[suffix](path, wanted)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text: {error.reason}") from None
    except (gzip.BadGzipFile, EOFError, zlib.error, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: damaged or not a {suffix} file: {error}") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from None
    return _without_nulls(table, needed)


def table_of(data: object, columns: Iterable[str], *, needed: Collection[str] = ()) -> Table:
    """Columns of Python data.

    Args:
        data: rows (an iterable of mappings), columns (a mapping of sequences, or any frame with
            ``.column_names`` or ``.columns`` and ``frame[name]``), or a function that returns them.
        columns: which columns to take.
        needed: as in `read_table`.

    Raises:
        DataError: the data have another form, lack a column, or no rows are left.
    """
    wanted = list(dict.fromkeys(columns))
    rows: Any = data() if callable(data) else data
    names = getattr(rows, "column_names", getattr(rows, "columns", None))
    if isinstance(rows, Mapping) or names is not None:
        _check_names("data", wanted, [str(name) for name in (rows if names is None else names)])
        table = _from_columns("data", {name: _values(rows[name]) for name in wanted})
    elif isinstance(rows, Iterable) and not isinstance(rows, str | bytes):
        table = _from_objects("data", wanted, enumerate(rows, 1))
    else:
        kind = type(rows).__name__
        raise DataError(f"data: {kind}: expected rows (mappings), columns, or a function of them")
    return _without_nulls(table, needed)


def _values(column: Any) -> Column:
    if isinstance(column, np.ndarray):
        return column
    # Arrow columns iterate over wrapped scalars
    values: list[object] = column.to_pylist() if hasattr(column, "to_pylist") else list(column)
    return values


def array_names(path: Path) -> tuple[str, ...]:
    """Names of the arrays in an NPZ file; none where it cannot be read as one."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return tuple(arrays.files)
    except (OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile):
        return ()


def _open_text(path: Path) -> TextIO:
    if path.suffix.lower() == ".gz":
        return gzip.open(path, "rt", encoding="utf-8-sig", newline="")
    return path.open(encoding="utf-8-sig", newline="")


def _read_csv(path: Path, wanted: list[str]) -> Table:
    with _open_text(path) as file:
        reader = csv.reader(file, strict=True)
        try:
            header = next(reader, [])
            _check_names(str(path), wanted, header)
            picks = [header.index(name) for name in wanted]
            return _collect(str(path), wanted, _csv_rows(path, reader, len(header), picks))
        except csv.Error as error:
            raise DataError(f"{path}, line {reader.line_num}: not CSV: {error}") from None


def _csv_rows(path: Path, reader: Any, width: int, picks: list[int]) -> Rows:
    for row in reader:
        if len(row) != width and row:
            found = f"{len(row)} values, but the header has {width}"
            raise DataError(f"{path}, line {reader.line_num}: {found}")
        if row:
            yield reader.line_num, [row[pick] for pick in picks]


def _read_jsonl(path: Path, wanted: list[str]) -> Table:
    with _open_text(path) as file:
        return _from_objects(str(path), wanted, _json_lines(path, file))


def _json_lines(path: Path, file: TextIO) -> Iterator[tuple[int, object]]:
    for number, line in enumerate(file, 1):
        if line.strip():
            try:
                yield number, json.loads(line)
            except json.JSONDecodeError as error:
                text = f"{path}, line {number}: not JSON: {error.msg} at column {error.pos + 1}"
                raise DataError(text) from None


def _from_objects(source: str, wanted: list[str], objects: Iterable[tuple[int, object]]) -> Table:
    present: dict[str, None] = {}

    def rows() -> Rows:
        for number, item in objects:
            if not isinstance(item, Mapping):
                found = f"expected an object of columns, found {type(item).__name__}"
                raise DataError(f"{source}, line {number}: {found}")
            present.update(dict.fromkeys(item))
            yield number, [item.get(name) for name in wanted]

    table = _collect(source, wanted, rows())
    if len(table):
        _check_names(source, wanted, list(present))
    return table


def _read_parquet(path: Path, wanted: list[str]) -> Table:
    try:
        import pyarrow as pa  # only where the extra is installed
        import pyarrow.parquet as pq
    except ModuleNotFoundError:
        text = f"{path}: Parquet needs pyarrow: pip install 'fedloom[parquet]'"
        raise DataError(text) from None
    try:
        _check_names(str(path), wanted, list(pq.read_schema(path).names))
        found = pq.read_table(path, columns=wanted)
    except pa.ArrowInvalid as error:
        raise DataError(f"{path}: not a Parquet file: {str(error).splitlines()[0]}") from None
    return _from_columns(str(path), {name: found.column(name).to_pylist() for name in wanted})


def _read_npz(path: Path, wanted: list[str]) -> Table:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            _check_names(str(path), wanted, arrays.files)
            return _from_columns(str(path), {name: arrays[name] for name in wanted})
    except (ValueError, TypeError) as error:
        # numpy's words for pickled objects, a bare array or foreign bytes
        raise DataError(f"{path}: not a plain NPZ file: {error}") from None


_READERS: Mapping[str, Callable[[Path, list[str]], Table]] = {
    ".csv": _read_csv,
    ".csv.gz": _read_csv,
    ".jsonl": _read_jsonl,
    ".jsonl.gz": _read_jsonl,
    ".parquet": _read_parquet,
    ".npz": _read_npz,
}


def _collect(source: str, wanted: list[str], rows: Rows) -> Table:
    columns: list[list[object]] = [[] for _ in wanted]
    lines: list[int] = []
    for number, values in rows:
        lines.append(number)
        for column, value in zip(columns, values, strict=True):
            column.append(value)
    return Table(source, dict(zip(wanted, columns, strict=True)), np.array(lines, dtype=np.int64))


def _from_columns(source: str, columns: Mapping[str, Column]) -> Table:
    counts = {name: len(column) for name, column in columns.items()}
    if len(set(counts.values())) > 1:
        found = ", ".join(f"{name}: {count}" for name, count in counts.items())
        raise DataError(f"{source}: columns of different length ({found})")
    count = next(iter(counts.values()), 0)
    return Table(source, columns, np.arange(1, count + 1, dtype=np.int64))


def _check_names(source: str, wanted: Iterable[str], present: Sequence[str]) -> None:
    for name in wanted:
        if name not in present:
            close = difflib.get_close_matches(name, present, n=1, cutoff=0.5)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            there = ", ".join(present) or "none"
            raise DataError(f"{source}: no column {name!r}; columns there: {there}{hint}")


def is_null(value: object) -> bool:
    """Whether a value is missing: null, empty, blank or NaN."""
    if isinstance(value, str):
        return not value.strip()
    if isinstance(value, float | np.floating):
        return bool(np.isnan(value))
    # pandas' own marks of a missing value, without importing pandas
    return value is None or type(value).__name__ in ("NAType", "NaTType")


def _without_nulls(table: Table, needed: Collection[str]) -> Table:
    """`table` without the rows in which a needed value is null."""
    keep = np.ones(len(table), dtype=bool)
    for name in needed:
        column = table.columns[name]
        if isinstance(column, np.ndarray) and (column.ndim > 1 or column.dtype.kind not in "fUO"):
            continue  # numbers that cannot be null
        keep &= np.fromiter((not is_null(value) for value in column), bool, len(table))
    if not keep.any():
        why = f": every {' or '.join(needed)} is null or empty" if len(table) else ""
        raise DataError(f"{table.source}: no rows left{why}")
    if keep.all():
        return table
    rows = np.flatnonzero(keep)
    columns = {name: _pick(column, rows) for name, column in table.columns.items()}
    return Table(table.source, columns, table.lines[rows], len(table) - len(rows))


def _pick(column: Column, rows: NDArray[np.int64]) -> Column:
    return column[rows] if isinstance(column, np.ndarray) else [column[row] for row in rows]
