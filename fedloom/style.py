"""How pictures look: colours, lines, axes. Figures are made without pyplot's global state."""

import colorsys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FuncFormatter, MaxNLocator

from fedloom.readable import METRICS

__all__ = [
    "ACCENT",
    "COLOURS",
    "GREY",
    "INK",
    "REFERENCES",
    "TINT",
    "WARM",
    "figure",
    "halo",
    "hues",
    "percent",
    "styled",
    "whole_rounds",
]

INK, GREY, GRID, TINT = "#1f2937", "#8a94a3", "#e6e9ee", "#f3f5f9"
ACCENT, WARM = "#0f6fbd", "#e07a1f"
COLOURS = (ACCENT, WARM, "#1a936f", "#a23b9b", "#c8a415", "#5b5bd6", "#d1495b", "#4b7f8c")
REFERENCES = {"before": (GREY, ":"), "central": ("#1a936f", "--"), "local": ("#a23b9b", "-.")}

_RC: dict[Any, Any] = {
    "font.size": 10,
    "text.color": INK,
    "axes.labelcolor": "#4b5563",
    "axes.edgecolor": "#c4cad4",
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 12,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": "#6b7280",
    "ytick.color": "#6b7280",
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.linewidth": 2.0,
    "lines.solid_capstyle": "round",
    "svg.hashsalt": "fedloom",
    "svg.fonttype": "path",
}


@contextmanager
def styled() -> Iterator[None]:
    """Draw and save inside: matplotlib's own settings are as before afterwards."""
    with matplotlib.rc_context(_RC):
        yield


def figure(panels: int, *, height: float = 3.5, ratios: Sequence[float] = ()) -> list[Axes]:
    """Axes side by side in one new figure, 10.8 inches wide."""
    made = Figure(figsize=(10.8, height), layout=ConstrainedLayoutEngine(w_pad=0.12))
    row = made.subplots(1, panels, squeeze=False, width_ratios=list(ratios) or None)[0]
    return list(row)


def percent(axes: Axes, metric: str) -> None:
    """Percent on the y axis for a metric that is a share; never beyond 100."""
    if metric in METRICS and METRICS[metric].share:
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.0f} %"))
        low, high = axes.get_ylim()
        axes.set_ylim(max(low, -0.01), min(high, 1.01))


def whole_rounds(axes: Axes) -> None:
    """Whole numbers of rounds on the x axis."""
    axes.set_xlabel("round")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))


def halo() -> list[patheffects.AbstractPathEffect]:
    """A white edge, so that text is readable over lines."""
    return [patheffects.withStroke(linewidth=3, foreground="white")]


def hues(number: int) -> list[tuple[float, float, float]]:
    """Colours (red, green, blue in [0, 1]) around the wheel; neighbours differ in lightness too."""
    steps = (((0.58 + i / max(1, number)) % 1, (0.5, 0.68)[i % 2]) for i in range(number))
    return [colorsys.hls_to_rgb(hue, lightness, 0.52) for hue, lightness in steps]
