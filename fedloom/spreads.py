"""Pictures of the clients: the model on each, who holds what, how many were refused."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from fedloom.readable import METRICS, count, headline, value_text
from fedloom.record import Record
from fedloom.style import ACCENT, COLOURS, GREY, INK, WARM, figure, halo, hues, whole_rounds

__all__ = ["across_clients", "partition", "refusals"]

_BARS_SHOWN = 60
_LABELS_NAMED = 12


def across_clients(records: Sequence[Record]) -> Figure | None:
    """Share of clients by the headline metric: bars for one run, steps for several."""
    values = [(record, *_client_values(record)) for record in records]
    known = [(record, name, v) for record, name, v in values if len(v)]
    if not known:
        return None
    (axes,) = figure(1, height=3.2)
    low, high = min(v.min() for *_, v in known), max(v.max() for *_, v in known)
    bins = np.linspace(low, high if high > low else low + 1e-6, 26).tolist()
    for index, (record, _, v) in enumerate(known):
        filled = {"histtype": "stepfilled", "alpha": 0.85} if len(records) == 1 else {}
        style: dict[str, Any] = {"histtype": "step", "linewidth": 2, **filled}
        weights = np.full(len(v), 100 / len(v))
        axes.hist(v, bins, weights=weights, color=COLOURS[index], label=record.name, **style)
    name = known[0][1]
    _quantile_marks(axes, name, known[0][2]) if len(records) == 1 else axes.legend()
    axes.set_title(f"{METRICS[name].title.capitalize()} on each client")
    axes.yaxis.set_major_formatter(PercentFormatter(decimals=0))
    if METRICS[name].share:
        axes.xaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=0))
    axes.set_ylabel("share of clients")
    return axes.get_figure(root=True)


def _client_values(record: Record) -> tuple[str, np.ndarray[Any, np.dtype[np.float64]]]:
    metrics = record.clients.values()
    name = headline(key for row in metrics for key in row)
    found = [row[name] for row in metrics if row.get(name) is not None] if name else []
    return name, np.asarray(found, dtype=np.float64)


def _quantile_marks(axes: Axes, name: str, values: np.ndarray[Any, Any]) -> None:
    marks = {"10 %": 0.1, "median": 0.5, "90 %": 0.9}
    for height, (title, share) in zip((0.98, 0.88, 0.98), marks.items(), strict=True):
        at = float(np.quantile(values, share))
        axes.axvline(at, color=INK, linewidth=1.2, linestyle="-" if share == 0.5 else ":")
        axes.text(
            at,
            height,
            f" {title}: {value_text(name, at)}",
            transform=axes.get_xaxis_transform(),
            va="top",
            ha="right" if share == 0.9 else "left",
            fontsize=9,
            path_effects=halo(),
        )


def partition(records: Sequence[Record]) -> Figure | None:
    """Label counts of the largest clients, and all sizes in order; for a single run only."""
    table = records[0].partition if len(records) == 1 else {}
    if not table.get("largest"):
        return None
    panels = figure(2, height=3.9, ratios=(2.1, 1))
    _labels(panels[0], table["largest"][:_BARS_SHOWN])
    _sizes(panels[1], table)
    return panels[0].get_figure(root=True)


def _labels(axes: Axes, largest: Sequence[Mapping[str, Any]]) -> None:
    totals: dict[str, int] = {}
    for row in largest:
        for label, number in row["labels"].items():
            totals[label] = totals.get(label, 0) + number
    order = sorted(totals, key=lambda label: -totals[label])
    x, base = np.arange(len(largest)), np.zeros(len(largest))
    for label, colour in zip(order, hues(len(order)), strict=True):
        height = np.array([row["labels"].get(label, 0) for row in largest], dtype=np.float64)
        named = label if len(order) <= _LABELS_NAMED else "_"
        axes.bar(x, height, bottom=base, width=0.88, color=colour, linewidth=0, label=named)
        base += height
    if not order:
        axes.bar(x, [row["examples"] for row in largest], width=0.88, color=ACCENT)
    kinds = f" by label ({len(order)} labels)" if order else ""
    axes.set_title(f"Examples of the {len(largest)} largest clients{kinds}")
    axes.set_xticks([])
    axes.set_xlabel("clients, largest first")
    axes.grid(axis="x", visible=False)
    if 0 < len(order) <= _LABELS_NAMED:
        axes.legend(ncols=2, loc="upper right", fontsize=8)


def _sizes(axes: Axes, table: Mapping[str, Any]) -> None:
    sizes = np.sort(np.asarray(table["sizes"], dtype=np.float64))[::-1]
    share = np.linspace(0, 100, len(sizes))
    axes.fill_between(share, sizes, color=ACCENT, alpha=0.18, linewidth=0)
    axes.plot(share, sizes, color=ACCENT)
    median = float(np.median(sizes))
    axes.axhline(median, color=GREY, linestyle=":", linewidth=1.4)
    axes.text(99, median, f"median {count(median)}", ha="right", va="bottom", fontsize=9)
    axes.set_title(f"Sizes of all {count(table['clients'])} clients")
    axes.xaxis.set_major_formatter(PercentFormatter(decimals=0))
    axes.set_xlabel("clients, largest first")
    axes.set_ylabel("examples")
    axes.set_ylim(bottom=0)


def refusals(records: Sequence[Record]) -> Figure | None:
    """Updates accepted and refused by round; None where none was refused; for a single run only."""
    history = records[0].history if len(records) == 1 else ()
    if not any(line.refused for line in history):
        return None
    (axes,) = figure(1, height=2.9)
    rounds = [line.round for line in history if line.round]
    accepted = [line.accepted for line in history if line.round]
    refused = [line.refused for line in history if line.round]
    axes.bar(rounds, accepted, width=0.85, color=ACCENT, alpha=0.85, label="accepted")
    axes.bar(rounds, refused, bottom=accepted, width=0.85, color=WARM, label="refused")
    axes.set_title("Updates by round")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(axis="x", visible=False)
    whole_rounds(axes)
    axes.legend(ncols=2, loc="lower right", bbox_to_anchor=(1.0, 1.0))
    return axes.get_figure(root=True)
