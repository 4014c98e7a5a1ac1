"""The table of a sweep: a row for each combination, the mean and deviation over its seeds."""

import csv
import io
import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedloom.columns import aligned
from fedloom.grid import short
from fedloom.markup import table
from fedloom.readable import METRICS, bytes_text, duration, energy, headline, value_text
from fedloom.sweeping import Outcome

__all__ = ["Row", "as_csv", "as_page", "as_text", "metrics_of", "rows_of", "write_table"]

_SPENT = ("simulated_seconds", "joules", "eta_e", "granularity")


@dataclass(frozen=True)
class Row:
    """The runs that differ in their seed only.

    Attributes:
        settings: their values by dotted key, the seed left out.
        outcomes: how each ended, the refused ones among them.
    """

    settings: Mapping[str, Any]
    outcomes: tuple[Outcome, ...]

    @property
    def runs(self) -> int:
        """Runs that have finished."""
        return sum(outcome.state == "finished" for outcome in self.outcomes)

    def values(self, metric: str) -> list[float]:
        """A metric of the runs that have finished and have it."""
        done = (outcome for outcome in self.outcomes if outcome.state == "finished")
        return [o.metrics[metric] for o in done if metric in o.metrics]

    def mean(self, metric: str) -> float:
        """Of a metric; NaN where no run has it."""
        values = self.values(metric)
        return statistics.fmean(values) if values else float("nan")

    def deviation(self, metric: str) -> float:
        """Sample standard deviation of a metric; NaN for fewer than two runs."""
        values = self.values(metric)
        return statistics.stdev(values) if len(values) > 1 else float("nan")

    def spent(self, name: str) -> float:
        """Mean of what a finished run cost; NaN where none says."""
        done = (o.spent.get(name) for o in self.outcomes if o.state == "finished")
        found = [value for value in done if value is not None]
        return statistics.fmean(found) if found else float("nan")

    @property
    def note(self) -> str:
        """What is to be known of the runs that have not finished."""
        reasons = (o.why or o.state for o in self.outcomes if o.state != "finished")
        return "; ".join(dict.fromkeys(reasons))


def rows_of(outcomes: Sequence[Outcome]) -> list[Row]:
    """Outcomes by their settings without the seed, in the order in which they came."""
    groups: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        groups.setdefault(json.dumps(_unseeded(outcome), sort_keys=True), []).append(outcome)
    return [Row(_unseeded(group[0]), tuple(group)) for group in groups.values()]


def metrics_of(outcomes: Sequence[Outcome]) -> list[str]:
    """What the table shows: of the global model, also on clients' examples, and of their models."""
    names = {name for outcome in outcomes for name in outcome.metrics}
    personal = {name for name in names if name.startswith("clients_personal_")}
    clients = {name for name in names if name.startswith("clients_")} - personal
    found = (headline(some) for some in (names - clients - personal, clients, personal))
    return [name for name in found if name]


def _unseeded(outcome: Outcome) -> dict[str, Any]:
    return {key: value for key, value in outcome.settings.items() if key != "seed"}


def _head(rows: Sequence[Row], metrics: Sequence[str]) -> list[str]:
    titles = [text for name in metrics for text in (METRICS[name].title, "sd")]
    keys = [key.removesuffix(".name") for key in rows[0].settings]
    costs = [f"{way} a run" for way in ("bytes", "device time", "energy")]
    return [*keys, *titles, "runs", *costs, "tokens/J", "T_comp/T_comm", ""]


def _cells(row: Row, metrics: Sequence[str]) -> list[str]:
    traffic = row.spent("bytes_up") + row.spent("bytes_down")
    seconds, joules, eta, granularity = (row.spent(name) for name in _SPENT)
    numbers = ((m, value) for m in metrics for value in (row.mean(m), row.deviation(m)))
    return [
        *(short(value) for value in row.settings.values()),
        *(value_text(metric, value) for metric, value in numbers),
        str(row.runs),
        bytes_text(traffic) if traffic == traffic else "-",
        duration(seconds) if seconds == seconds else "-",
        energy(joules) if joules == joules else "-",
        f"{eta:.3g}" if eta == eta else "-",
        f"{granularity:.3g}" if granularity == granularity else "-",
        row.note,
    ]


def as_text(outcomes: Sequence[Outcome]) -> str:
    """The table for a terminal; empty without outcomes."""
    rows, metrics = rows_of(outcomes), metrics_of(outcomes)
    if not rows:
        return ""
    return aligned([_head(rows, metrics), *(_cells(row, metrics) for row in rows)])


def as_csv(outcomes: Sequence[Outcome]) -> str:
    """The table as comma-separated values, in plain units."""
    file, rows, metrics = io.StringIO(), rows_of(outcomes), metrics_of(outcomes)
    writer = csv.writer(file, lineterminator="\n")
    titles = [f"{name}_{what}" for name in metrics for what in ("mean", "sd")]
    costs = ("bytes_up", "bytes_down", *_SPENT)
    keys = list(rows[0].settings) if rows else []
    writer.writerow([*keys, *titles, "runs", *costs, "note"])
    for row in rows:
        shown = [value for m in metrics for value in (row.mean(m), row.deviation(m))]
        numbers = [*shown, row.runs, *(row.spent(c) for c in costs)]
        told = ["" if number != number else number for number in numbers]
        writer.writerow([*(short(v) for v in row.settings.values()), *told, row.note])
    return file.getvalue()


def as_page(outcomes: Sequence[Outcome]) -> str:
    """The table as HTML."""
    rows, metrics = rows_of(outcomes), metrics_of(outcomes)
    if not rows:
        return ""
    head = _head(rows, metrics)
    left = [*range(len(rows[0].settings)), len(head) - 1]
    return table(head, [_cells(row, metrics) for row in rows], texts=left)


def write_table(outcomes: Sequence[Outcome], folder: Path) -> Path:
    """Write ``sweep.csv`` and ``report.html`` with the table; returns the page.

    Raises:
        RunError: they cannot be written.
    """
    from fedloom.report import write_page

    title = f"{folder.name}: {len(outcomes)} runs"
    body = f'<section><div class="scroll">{as_page(outcomes)}</div></section>'
    return write_page(folder, title, body, {"sweep.csv": as_csv(outcomes)})
