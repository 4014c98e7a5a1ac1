"""Curves of one run, or of several overlaid: what was learned, and what it cost."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from fedloom.readable import METRICS
from fedloom.record import Record
from fedloom.style import (
    COLOURS,
    GREY,
    REFERENCES,
    TINT,
    WARM,
    figure,
    halo,
    percent,
    whole_rounds,
)

__all__ = ["cost", "learning", "on_devices"]


def learning(records: Sequence[Record]) -> Figure | None:
    """Headline metric and loss by round; None before the first round."""
    if not any(len(record.history) for record in records):
        return None
    metric = _common_metric(records)
    panels = figure(2 if metric and metric != "loss" else 1, height=3.7)
    if len(panels) == 2:
        _metric_by_round(panels[0], records, metric)
    _loss_by_round(panels[-1], records)
    return panels[0].get_figure(root=True)


def _common_metric(records: Sequence[Record]) -> str:
    return next((record.metric for record in records if record.metric), "")


def _metric_by_round(axes: Axes, records: Sequence[Record], metric: str) -> None:
    axes.set_title(METRICS[metric].title.capitalize())
    for record, colour in _coloured(records):
        x, y = record.curve("round", f"evaluation.{metric}")
        _line(axes, x, y, colour=colour, label=record.name if len(records) > 1 else "")
    whole_rounds(axes)
    if len(records) == 1:
        _references(axes, records[0], metric)
    axes.margins(y=0.12)
    percent(axes, metric)
    _decorate(axes, records)


def _loss_by_round(axes: Axes, records: Sequence[Record]) -> None:
    axes.set_title("Loss")
    for record, colour in _coloured(records):
        single = len(records) == 1
        x, y = record.curve("round", "loss")
        label = "training" if single else record.name
        _line(axes, x, y, colour=WARM if single else colour, label=label)
        x, y = record.curve("round", "evaluation.loss")
        axes.plot(x, y, color=colour, linestyle="-" if single else ":", label=_evaluated(single))
    whole_rounds(axes)
    axes.set_ylim(bottom=0)
    _decorate(axes, records)


def _evaluated(single: bool) -> str:
    return "evaluation" if single else "_"


def _coloured(records: Sequence[Record]) -> list[tuple[Record, str]]:
    return [(record, COLOURS[i % len(COLOURS)]) for i, record in enumerate(records)]


def _line(
    axes: Axes,
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    *,
    colour: str,
    label: str = "",
) -> None:
    """A curve that ends in a dot, so that short runs are visible too."""
    if not len(x):
        return
    axes.plot(x, y, color=colour, label=label or "_")
    axes.plot(x[-1:], y[-1:], "o", color=colour, markersize=6)


def _references(axes: Axes, record: Record, metric: str) -> None:
    """Level lines of the model before training and of the references."""
    levels = {"before": record.before, **record.references}
    known = {name: m[metric] for name, m in levels.items() if np.isfinite(m.get(metric, np.nan))}
    top = max(known, key=lambda name: known[name], default="")
    for name, value in known.items():
        colour, dashes = REFERENCES.get(name, (GREY, "--"))
        axes.axhline(value, color=colour, linestyle=dashes, linewidth=1.4)
        axes.annotate(
            name,
            xy=(0.985, value),
            xycoords=("axes fraction", "data"),
            xytext=(0, 3 if name == top or name == "before" else -3),
            textcoords="offset points",
            ha="right",
            va="bottom" if name == top or name == "before" else "top",
            color=colour,
            fontsize=9,
            path_effects=halo(),
        )


def _decorate(axes: Axes, records: Sequence[Record]) -> None:
    """Stages of a single run, or names of several."""
    stages = records[0].stages if len(records) == 1 else ()
    for index, stage in enumerate(stages if len(stages) > 1 else ()):
        left, right = stage.first - 0.5, stage.last + 0.5
        axes.axvspan(left, right, color=TINT if index % 2 == 0 else "white", zorder=0, linewidth=0)
        axes.text(
            (left + right) / 2,
            1.005,
            stage.name,
            transform=axes.get_xaxis_transform(),
            ha="center",
            va="bottom",
            color=GREY,
            fontsize=8,
        )
    if len(stages) > 1:
        axes.set_title(axes.get_title(loc="left"), pad=20)
        axes.set_xlim(min(0, axes.get_xlim()[0]), stages[-1].last + 0.5)
    if any(not label.startswith("_") for label in axes.get_legend_handles_labels()[1]):
        axes.legend(loc="best")


def cost(records: Sequence[Record]) -> Figure | None:
    """Headline metric by bytes, and by wall time."""
    return _by(records, ("bytes", "elapsed"))


def on_devices(records: Sequence[Record]) -> Figure | None:
    """Headline metric by the devices' time and energy; None where neither was counted."""
    lines = [record.history.last for record in records if record.history.last]
    columns = ("simulated_seconds", "total_joules")
    return _by(records, [c for c in columns if any(getattr(line, c) > 0 for line in lines)])


def _by(records: Sequence[Record], columns: Sequence[str]) -> Figure | None:
    metric = _common_metric(records)
    if not metric or not columns or not any(len(record.history) for record in records):
        return None
    panels = figure(len(columns), height=3.3)
    for axes, column in zip(panels, columns, strict=True):
        _against(axes, records, metric, column)
    return panels[0].get_figure(root=True)


_BYTES = (("bytes", 1.0), ("kB", 1e3), ("MB", 1e6), ("GB", 1e9), ("TB", 1e12))
_TIME = (("seconds", 1.0), ("minutes", 60.0), ("hours", 3600.0), ("days", 86400.0))
_ENERGY = (("joules", 1.0), ("kJ", 1e3), ("MJ", 1e6), ("GJ", 1e9))
_AGAINST = {
    "bytes": ("by bytes up and down", _BYTES),
    "elapsed": ("by wall time", _TIME),
    "simulated_seconds": ("by the devices' time", _TIME),
    "total_joules": ("by the devices' energy", _ENERGY),
}


def _against(axes: Axes, records: Sequence[Record], metric: str, column: str) -> None:
    text, units = _AGAINST[column]
    axes.set_title(f"{METRICS[metric].title.capitalize()} {text}")
    curves = [(r, colour, *_costs(r, metric, column)) for r, colour in _coloured(records)]
    most = max((float(x[-1]) for _, _, x, _ in curves if len(x)), default=0.0)
    unit, scale = next((u for u in reversed(units) if most >= 2 * u[1]), units[0])
    for record, colour, x, y in curves:
        label = record.name if len(records) > 1 else ""
        _line(axes, x / scale, y, colour=colour, label=label)
    axes.set_xlabel(unit)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6))
    axes.set_xlim(left=0)
    axes.margins(y=0.12)
    percent(axes, metric)
    if len(records) > 1:
        axes.legend(loc="lower right")


def _costs(
    record: Record, metric: str, column: str
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Cost so far and metric, at every evaluated round."""
    if f"evaluation.{metric}" not in record.history.columns:
        return np.empty(0), np.empty(0)
    y = record.history[f"evaluation.{metric}"].astype(np.float64)
    x = record.total_bytes() if column == "bytes" else record.history[column]
    there = np.isfinite(y)
    return x[there].astype(np.float64), y[there]
