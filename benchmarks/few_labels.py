"""Labels alone beside labels and pseudo-labels: 64 labels in all, over several seeds.

Usage: ``few_labels.py [--backbone FOLDER] [--device cuda] [--seeds 0 1 2] [--only NAME ...]``, from
the repository's root. All rows tell the four domains of the sentiment data apart; they are the
recipes ``fes`` and ``lp-fl``, and the same without the examples that have no label.
"""

import argparse
import time
from collections.abc import Mapping
from pathlib import Path
from statistics import mean

from fedloom.api import simulate
from fedloom.core.config import read_toml
from fedloom.progress import Quiet
from fedloom.sources import recipes
from seeds import add_seeds, each_seed

__all__ = ["WAYS"]

WAYS: Mapping[str, tuple[str, bool]] = {
    "biases, labels alone": ("fes", False),
    "FeS": ("fes", True),
    "LoRA, labels alone": ("lp-fl", False),
    "LP-FL": ("lp-fl", True),
}
"""The recipe, and whether examples without a label are kept, by name."""
DATA = {
    "path": "examples/data/sentiment.jsonl.gz",
    "text": "text",
    "label": "domain",
    "client": "client",
    "split": "split",
    "max_examples": 12,
}


def job(name: str, seed: int, options: argparse.Namespace) -> dict[str, object]:
    """A recipe on the domains, with or without what has no label."""
    recipe, unlabelled = WAYS[name]
    table = read_toml(recipes()[recipe])
    table["backbone"] |= {"name": options.backbone}
    table["data"] |= {**DATA, "unlabelled": unlabelled}
    table["local"] |= {"head_lr": options.head_lr}
    folder = options.output / f"{name.replace(' ', '-')}-{seed}"
    return table | {
        "seed": seed,
        "partition": {"name": "iid", "clients": 100},
        "evaluate": {"split": "valid", "every": options.every},
        "run": {"device": options.device, "directory": str(folder)},
    }


def measured(name: str, seed: int, options: argparse.Namespace) -> dict[str, object]:
    """One run's figures; accuracies are of the test split but for the curve's, of ``valid``."""
    began = time.perf_counter()
    run = simulate(job(name, seed, options), observer=Quiet(), overwrite=True)
    lines = [line for line in run.history if line.round]
    curve = [line.evaluation["accuracy"] for line in run.history if line.evaluation]
    return {
        "name": name,
        "seed": seed,
        "before": run.summary.before["accuracy"],
        "accuracy": run.summary.after["accuracy"],
        "macro_f1": run.summary.after["macro_f1"],
        "curve": [round(accuracy, 4) for accuracy in curve],
        "updates": sum(line.accepted for line in lines),
        "up": lines[-1].total_bytes_up,
        "trainable": run.params.layout.size,
        "seconds": round(time.perf_counter() - began),
    }


def table(rows: list[dict[str, object]]) -> str:
    """Markdown: means over the seeds; bytes are of one update."""
    found = ["| | test accuracy | seeds | macro F1 | valid | kB up |", "|---|---|---|---|---|---|"]
    for name in WAYS:
        own = [row for row in rows if row["name"] == name]
        if not own:
            continue
        accuracy, f1 = (_percent(own, key) for key in ("accuracy", "macro_f1"))
        seeds = ", ".join(f"{100 * float(str(row['accuracy'])):.1f}" for row in own)
        valid = 100 * mean(_curve(row)[-1] for row in own)
        up = mean(float(str(row["up"])) / float(str(row["updates"])) for row in own) / 1e3
        found.append(f"| {name} | {accuracy:.1f} | {seeds} | {f1:.1f} | {valid:.1f} | {up:.1f} |")
    return "\n".join(found)


def _percent(rows: list[dict[str, object]], key: str) -> float:
    return 100 * mean(float(str(row[key])) for row in rows)


def _curve(row: dict[str, object]) -> list[float]:
    curve = row["curve"]
    return [float(str(value)) for value in curve] if isinstance(curve, list) else []


def main() -> None:
    """Run what is asked for and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--backbone", default="minilm")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--head-lr", type=float, default=0.05)
    parser.add_argument("--every", type=int, default=8)
    add_seeds(parser, WAYS)
    parser.add_argument("--output", type=Path, default=Path("runs/few-labels"))
    options = parser.parse_args()
    print(table(each_seed(options, measured)))


if __name__ == "__main__":
    main()
