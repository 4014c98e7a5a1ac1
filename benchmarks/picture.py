"""Draw the README's picture from the benchmark's results: clients per second, side by side.

Usage: ``python benchmarks/picture.py``; reads ``benchmarks/results``, writes ``docs/pictures``.
"""

import json
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot

HERE = Path(__file__).resolve().parent
SHOWN = (("minilm", "MiniLM-L6, 16 x 32 tokens"), ("small-clients", "MiniLM-L6, 4 x 16 tokens"))


def main() -> None:
    """Draw one panel per section, one bar per system."""
    figure, axes = pyplot.subplots(1, len(SHOWN), figsize=(10, 3.2), layout="constrained")
    for axis, (name, title) in zip(axes, SHOWN, strict=True):
        rows: list[dict[str, Any]] = json.loads((HERE / "results" / f"{name}.json").read_text())[
            "results"
        ]
        bars = [(row["label"], row["clients_per_second"]) for row in rows if "failed" not in row]
        bars.sort(key=lambda bar: bar[1])
        colors = ["#0f6cbd" if label.startswith("fedloom") else "#b9c2cc" for label, _ in bars]
        drawn = axis.barh([_short(label) for label, _ in bars], [r for _, r in bars], color=colors)
        axis.bar_label(drawn, fmt="%.1f", padding=3, fontsize=8)
        axis.set_title(title, loc="left", fontsize=10, fontweight="bold")
        axis.set_xlabel("clients per second, 2 cores")
        axis.spines[["top", "right", "left"]].set_visible(False)
        axis.tick_params(axis="y", length=0, labelsize=8)
        axis.margins(x=0.12)
    out = HERE.parent / "docs" / "pictures"
    out.mkdir(parents=True, exist_ok=True)
    figure.savefig(out / "clients-per-second.png", dpi=130)


def _short(label: str) -> str:
    return label.replace(", frozen weights bf16, plain attention", ", tuned").replace(
        "any transformers model", "generic"
    )


if __name__ == "__main__":
    main()
