"""Tables and curves of the accuracy benchmark."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any, TypeAlias

from accuracy_jobs import DATA, METHODS
from running import Result
from tables import markdown

__all__ = ["accuracy_page", "draw"]

Runs: TypeAlias = Mapping[tuple[str, str], Sequence[Result]]

AXES = {"round": "rounds", "forwards": "forward passes of all clients", "up": "MB sent up"}


def grouped(results: Sequence[Result]) -> Runs:
    """Runs by data set and method; of several lengths, the longest."""
    found: dict[tuple[str, str], list[Result]] = {}
    for result in results:
        found.setdefault((result["data"], result["method"]), []).append(result)
    return {
        key: [run for run in runs if run["rounds"] == max(r["rounds"] for r in runs)]
        for key, runs in found.items()
    }


def accuracy_page(results: Sequence[Result]) -> str:
    """A table for each data set, with what it was measured on."""
    runs, lines = grouped(results), []
    for data in DATA:
        rows = [
            [*_row(name, runs[data, name], _reference(runs, data))]
            for name in METHODS
            if (data, name) in runs
        ]
        if not rows:
            continue
        head = ["method", "rounds", "accuracy, %", "points to backprop", "forwards", "MB up"]
        lines += [f"### {data}", "", markdown([[*head, "MB down"], *rows]), ""]
    facts = sorted({f"machine: {r['machine']}; commit: {r['commit']}" for r in results})
    return "\n".join([*lines, *facts]) + "\n"


def _reference(runs: Runs, data: str) -> Sequence[Result]:
    """Backpropagation at the better of its rates."""
    rates = (runs.get((data, name), ()) for name in ("backprop", "backprop-slow"))
    return max((r for r in rates if r), key=_mean, default=())


def _mean(runs: Sequence[Result]) -> float:
    return fmean(100 * float(run["accuracy"]) for run in runs)


def _row(name: str, runs: Sequence[Result], others: Sequence[Result]) -> list[str]:
    scores = [100 * float(run["accuracy"]) for run in runs]
    last: Mapping[str, Any] = runs[0]["curve"][-1]
    spread = f" ± {pstdev(scores):.1f}" if len(scores) > 1 else ""
    apart = "-"
    if others and not name.startswith("backprop"):
        apart = f"{fmean(scores) - _mean(others):+.1f}"
    return [
        METHODS[name].label,
        str(runs[0]["rounds"]),
        f"{fmean(scores):.1f}{spread}",
        apart,
        f"{last['forwards']:,.0f}",
        f"{last['up'] / 1e6:,.1f}",
        f"{last['down'] / 1e6:,.1f}",
    ]


def draw(results: Sequence[Result], path: Path) -> None:
    """Draw accuracy by rounds, by forward passes and by bytes: a row for each data set."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    runs = grouped(results)
    shown = [data for data in DATA if any(key[0] == data for key in runs)]
    size = (11, 3.2 * len(shown))
    figure, axes = pyplot.subplots(
        len(shown), len(AXES), figsize=size, layout="constrained", squeeze=False, sharey="row"
    )
    for panels, data in zip(axes, shown, strict=True):
        for panel, (key, label) in zip(panels, AXES.items(), strict=True):
            for name in METHODS:
                if (data, name) in runs:
                    panel.plot(*_curve(runs[data, name], key), label=METHODS[name].label, lw=1.4)
            panel.set_xlabel(label, fontsize=9)
            panel.set_xscale("log")
            panel.spines[["top", "right"]].set_visible(False)
            panel.tick_params(labelsize=8)
        panels[0].set_ylabel(f"{data}: accuracy, %", fontsize=9)
    axes[0][-1].legend(fontsize=7, frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)


def _curve(runs: Sequence[Result], key: str) -> tuple[list[float], list[float]]:
    """The mean curve over seeds, without the model before training."""
    columns = zip(*(run["curve"][1:] for run in runs), strict=True)
    points = [list(column) for column in columns]
    scale = 1e-6 if key == "up" else 1.0
    return (
        [scale * fmean(point[key] for point in column) for column in points],
        [100 * fmean(point["accuracy"] for point in column) for column in points],
    )
