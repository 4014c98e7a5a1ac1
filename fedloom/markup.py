"""Tables and figures of a report as HTML; every text from a run is escaped."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from fedloom.readable import METRICS, bytes_text, count, duration, energy, value_text
from fedloom.record import Record
from fedloom.results.compare import differences
from fedloom.results.observe import RoundLine

__all__ = [
    "comparison",
    "config_tables",
    "different_keys",
    "refused_table",
    "rounds_table",
    "table",
]

_REASONS_SHOWN = 30


def table(head: Sequence[str], rows: Iterable[Sequence[str]], *, texts: Iterable[int] = ()) -> str:
    """A table of escaped cells; columns whose index is in `texts` are set to the left.

    >>> table(["a"], [["<1>"]])
    '<table><thead><tr><th>a</th></tr></thead><tbody><tr><td>&lt;1&gt;</td></tr></tbody></table>'
    """
    left = set(texts)
    top = _row(head, "th", left)
    body = "".join(_row(row, "td", left) for row in rows)
    return f"<table><thead>{top}</thead><tbody>{body}</tbody></table>"


def _row(cells: Sequence[str], tag: str, left: set[int]) -> str:
    kinds = (' class="text wrap"' if i in left else "" for i in range(len(cells)))
    pairs = zip(cells, kinds, strict=True)
    return f"<tr>{''.join(f'<{tag}{kind}>{escape(cell)}</{tag}>' for cell, kind in pairs)}</tr>"


def rounds_table(record: Record) -> str:
    """Every round in a row."""
    metrics = [m for m in METRICS if f"evaluation.{m}" in record.history.columns]
    titles = [_evaluated(name) for name in metrics]
    head = ["round", "stage", "accepted", "refused", "training loss", *titles]
    head += ["up", "down", "round took", "clients/s"]
    modelled = any(line.round_seconds for line in record.history)
    head += ["devices' time", "energy"] if modelled else []
    rows = (_round_cells(line, metrics, modelled) for line in record.history)
    return table(head, rows, texts=[1])


def _evaluated(name: str) -> str:
    return "evaluation loss" if name == "loss" else METRICS[name].title


def _round_cells(line: RoundLine, metrics: Sequence[str], modelled: bool) -> list[str]:
    values = [value_text(m, line.evaluation[m]) if m in line.evaluation else "" for m in metrics]
    devices = [duration(line.round_seconds), energy(line.joules) if line.joules else ""]
    return [
        str(line.round),
        line.stage,
        str(line.accepted),
        str(line.refused or ""),
        value_text("loss", line.loss),
        *values,
        bytes_text(line.bytes_up),
        bytes_text(line.bytes_down),
        duration(line.seconds),
        f"{line.clients_per_second:.3g}" if line.clients_per_second else "",
        *(devices if modelled else ()),
    ]


def refused_table(record: Record) -> str:
    """Reasons of refusals, most frequent first, with who was refused; empty without any."""
    refusals = [(r.reason, r.client, line.round) for line in record.history for r in line.refusals]
    rows = []
    for reason, times in Counter(reason for reason, *_ in refusals).most_common(_REASONS_SHOWN):
        whose = [f"{client} (round {number})" for r, client, number in refusals if r == reason]
        more = f" and {len(whose) - 5} more" if len(whose) > 5 else ""
        rows.append([str(times), reason, ", ".join(whose[:5]) + more])
    return table(["times", "reason", "clients"], rows, texts=[1, 2]) if rows else ""


def config_tables(config: Mapping[str, Any]) -> str:
    """The configuration: a small table for each of its tables."""
    top = {key: value for key, value in config.items() if not _is_table(value)}
    parts = [_pairs("job", top)]
    for key, value in config.items():
        if isinstance(value, Mapping):
            parts.append(_pairs(key, value))
        elif _is_table(value):
            parts += [_pairs(f"{key}[{i}]", _flat(item)) for i, item in enumerate(value)]
    return f'<div class="columns">{"".join(parts)}</div>'


def _is_table(value: object) -> bool:
    listed = isinstance(value, list) and any(isinstance(item, Mapping) for item in value)
    return isinstance(value, Mapping) or listed


def _flat(value: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, item in value.items():
        here = f"{path}{key}"
        flat |= _flat(item, f"{here}.") if isinstance(item, Mapping) else {here: item}
    return flat


def _pairs(caption: str, values: Mapping[str, Any]) -> str:
    rows = "".join(
        f"<tr><td>{escape(key)}</td><td><code>{escape(_plain(value))}</code></td></tr>"
        for key, value in values.items()
    )
    return f"<table><caption>{escape(caption)}</caption><tbody>{rows}</tbody></table>"


def _plain(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return "[" + ", ".join(_plain(item) for item in value) + "]"
    return str(value) if str(value) else '""'


def comparison(records: Sequence[Record]) -> str:
    """One row for each run."""
    metric = next((record.metric for record in records if record.metric), "")
    title = METRICS[metric].title if metric else "metric"
    head = ["run", "state", "rounds", f"{title} before", "last", "best", "up", "down", "time"]
    head += ["devices' time", "energy", "tokens/J", "T_comp/T_comm"]
    rows = [_compared(record, metric) for record in records]
    return table(head, rows, texts=[0, 1])


def _compared(record: Record, metric: str) -> list[str]:
    last = record.history.last or RoundLine(0)
    nan = float("nan")
    return [
        record.name,
        record.state,
        count(record.done),
        value_text(metric, record.before.get(metric, nan)),
        value_text(metric, record.after.get(metric, nan)),
        value_text(metric, record.best()),
        bytes_text(last.total_bytes_up),
        bytes_text(last.total_bytes_down),
        duration(last.elapsed),
        duration(last.simulated_seconds) if last.simulated_seconds else "",
        energy(last.total_joules) if last.total_joules else "",
        *(f"{record.spent[n]:.3g}" if n in record.spent else "" for n in ("eta_e", "granularity")),
    ]


def different_keys(records: Sequence[Record]) -> str:
    """The settings in which runs differ, a row for each; empty where they are the same."""
    first = records[0].config
    keys = {key: None for record in records for key in differences(first, record.config)}
    rows = [[key, *(_setting(record.config, key) for record in records)] for key in keys]
    head = ["setting", *(record.name for record in records)]
    return table(head, rows, texts=range(len(head))) if rows else ""


def _setting(config: Mapping[str, Any], key: str) -> str:
    found = differences({}, config).get(key)
    return _plain(found[1]) if found else ""
