"""What a load test measures: how long each call took, how much it moved, what was refused."""

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
from rich.console import Group
from rich.table import Table

from fedloom.core.errors import TransferError

__all__ = ["Measured", "Series"]

_MIB = 2.0**20
_MS = 1000.0


@dataclass
class Series:
    """The calls of one kind that succeeded.

    Attributes:
        seconds: of each.
        bytes: that they moved.
        began: clock when the first one began.
        ended: clock when the last one ended.
    """

    seconds: list[float] = field(default_factory=list)
    bytes: int = 0
    began: float = float("inf")
    ended: float = 0.0

    @property
    def span(self) -> float:
        """Seconds from the first beginning to the last end."""
        return max(self.ended - self.began, 1e-9)

    def percentiles(self) -> tuple[float, float, float, float]:
        """Seconds: median, 90th and 99th percentile, and the longest; linear interpolation."""
        p50, p90, p99, most = np.percentile(self.seconds, [50, 90, 99, 100])
        return float(p50), float(p90), float(p99), float(most)


class Measured:
    """Times and refusals of a load test, by the kind of call."""

    def __init__(self) -> None:
        self.series: dict[str, Series] = {}
        self.refusals: Counter[tuple[str, str]] = Counter()

    @contextmanager
    def call(self, kind: str, size: int = 0) -> Iterator[None]:
        """Measure the block as one call that moves `size` bytes; a refusal is counted and raised.

        Raises:
            TransferError: what the block raises.
        """
        began = time.perf_counter()
        try:
            yield
        except TransferError as error:
            self.refusals[kind, error.code] += 1
            raise
        ended = time.perf_counter()
        series = self.series.setdefault(kind, Series())
        series.seconds.append(ended - began)
        series.bytes += size
        series.began, series.ended = min(series.began, began), ended

    def table(self) -> Group:
        """Rates and latencies, and under them what was refused, if anything was."""
        tables = [self._calls()]
        if self.refusals:
            tables.append(self._refusals())
        return Group(*tables)

    def _calls(self) -> Table:
        table = Table("call", title="calls", title_justify="left")
        for column in ("count", "/s", "MiB/s", "p50 ms", "p90 ms", "p99 ms", "longest ms"):
            table.add_column(column, justify="right")
        for kind, series in self.series.items():
            rates = f"{len(series.seconds) / series.span:,.1f}"
            moved = f"{series.bytes / series.span / _MIB:,.1f}" if series.bytes else ""
            times = (f"{seconds * _MS:,.1f}" for seconds in series.percentiles())
            table.add_row(kind, f"{len(series.seconds):,}", rates, moved, *times)
        return table

    def _refusals(self) -> Table:
        table = Table("call", "reason", title="refusals", title_justify="left")
        table.add_column("count", justify="right")
        for (kind, code), count in self.refusals.most_common():
            table.add_row(kind, code, f"{count:,}")
        return table
