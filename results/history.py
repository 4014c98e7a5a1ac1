"""The rounds of a run as a table: columns for numpy, rows for people, lines for a file."""

import dataclasses
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fedloom.core.errors import ConfigError, RunError, nearest
from fedloom.core.types import Refusal
from fedloom.results.observe import RoundLine

if TYPE_CHECKING:
    import pandas

__all__ = ["History", "json_values", "line_from_json", "line_to_json"]

_PLAIN = tuple(f.name for f in dataclasses.fields(RoundLine) if f.name != "refusals")
_NESTED = ("metrics", "evaluation")
_SHOWN = ("round", "stage", "accepted", "loss", "evaluation.accuracy", "evaluation.loss")
_LOWER_IS_BETTER = ("loss", "perplexity", "seconds", "elapsed", "bytes")


class History:
    """The rounds so far, in order.

    A column is a field of `RoundLine`, or ``metrics.NAME`` or ``evaluation.NAME``.

    >>> history = History([RoundLine(1, loss=2.0), RoundLine(2, evaluation={"accuracy": 0.5})])
    >>> history["evaluation.accuracy"]
    array([nan, 0.5])
    >>> history.best("evaluation.accuracy").round
    2
    """

    def __init__(self, lines: Iterable[RoundLine] = ()) -> None:
        self._lines = tuple(lines)

    @staticmethod
    def read(path: Path) -> "History":
        """Read ``metrics.jsonl``; a last line that was cut short is left out.

        Raises:
            RunError: a line before the last is not a round.
        """
        if not path.exists():
            return History()
        texts = [t for t in path.read_text(encoding="utf-8").split("\n") if t.strip()]
        lines = []
        for number, text in enumerate(texts, start=1):
            try:
                lines.append(line_from_json(text))
            except (ValueError, TypeError, KeyError, AttributeError) as error:
                if number < len(texts):
                    raise RunError(f"{path}, line {number}: not a round: {error}") from None
        return History(lines)

    def __len__(self) -> int:
        return len(self._lines)

    def __iter__(self) -> Iterator[RoundLine]:
        return iter(self._lines)

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns that any round has."""
        plain = tuple(name for name in _PLAIN if name not in _NESTED)
        nested = (f"{part}.{key}" for part in _NESTED for key in self._keys(part))
        return (*plain, *nested)

    def _keys(self, part: str) -> list[str]:
        return list(dict.fromkeys(key for line in self for key in getattr(line, part)))

    def __getitem__(self, column: str) -> NDArray[Any]:
        """One column ``[rounds]``; float64 with NaN where a round lacks it, or int64, or text.

        Raises:
            ConfigError: no round has such a column.
        """
        if column not in self.columns:
            raise ConfigError(f"history: no column {column!r}; {nearest(column, self.columns)}")
        return np.array([_cell(line, column) for line in self._lines])

    def rows(self) -> list[dict[str, Any]]:
        """One flat dictionary per round, all with the same keys."""
        return [{name: _cell(line, name) for name in self.columns} for line in self._lines]

    def to_pandas(self) -> "pandas.DataFrame":
        """The same as a pandas data frame.

        Raises:
            RunError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError:
            text = "history.to_pandas() needs pandas: pip install pandas; history.rows() does not"
            raise RunError(text) from None
        return pandas.DataFrame(self.rows(), columns=list(self.columns))

    @property
    def last(self) -> RoundLine | None:
        """The last round, or None before the first."""
        return self._lines[-1] if self._lines else None

    def best(self, column: str) -> RoundLine | None:
        """The first round with the best value: the least loss, perplexity, time or bytes, else the
        largest; None where no round has a value.

        Raises:
            ConfigError: no round has such a column.
        """
        values = self[column].astype(np.float64)
        if not np.isfinite(values).any():
            return None
        least = any(word in column for word in _LOWER_IS_BETTER)
        return self._lines[int(np.nanargmin(values) if least else np.nanargmax(values))]

    def until(self, round: int) -> "History":
        """The rounds up to and with number `round`."""
        return History(line for line in self._lines if line.round <= round)

    def __repr__(self) -> str:
        if not self._lines:
            return "History of 0 rounds"
        names = [name for name in _SHOWN if name in self.columns]
        head = [[name.removeprefix("evaluation.") for name in names]]
        few = [[_text(_cell(line, n)) for n in names] for line in self._lines[-10:]]
        rows = head + few
        widths = [max(len(row[i]) for row in rows) for i in range(len(names))]
        table = ("  ".join(t.rjust(w) for t, w in zip(r, widths, strict=True)) for r in rows)
        hidden = ["..."] if len(self._lines) > 10 else []
        title = f"History of {len(self._lines)} rounds"
        top, *body = table
        return "\n".join([title, top, *hidden, *body])


def _cell(line: RoundLine, column: str) -> Any:
    part, dot, key = column.partition(".")
    return getattr(line, part).get(key, math.nan) if dot else getattr(line, column)


def _text(value: object) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def line_to_json(line: RoundLine) -> str:
    """One line of strict JSON; numbers that JSON lacks (NaN, infinities) become null."""
    return json.dumps(json_values(line), allow_nan=False)


def json_values(value: object) -> Any:
    """Frozen dataclasses, mappings, paths and numbers as JSON values."""
    if dataclasses.is_dataclass(value):
        pairs = ((f.name, getattr(value, f.name)) for f in dataclasses.fields(value))
        return {name: json_values(item) for name, item in pairs}
    if isinstance(value, Mapping):
        return {str(name): json_values(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [json_values(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, np.generic):
        return json_values(value.item())
    return None if isinstance(value, float) and not math.isfinite(value) else value


def line_from_json(text: str) -> RoundLine:
    """The inverse of `line_to_json`; null becomes NaN, keys of a later version are left out.

    Raises:
        ValueError: the text is not JSON.
        TypeError: it is JSON, but not a round.
    """
    table = json.loads(text)
    values = {name: _number(table[name]) for name in _PLAIN if name in table}
    for part in _NESTED:
        values[part] = {key: _number(item) for key, item in (values.get(part) or {}).items()}
    refusals = tuple(Refusal(r["client"], r["reason"]) for r in table.get("refusals", ()))
    return RoundLine(**values, refusals=refusals)


def _number(value: Any) -> Any:
    return math.nan if value is None else value
