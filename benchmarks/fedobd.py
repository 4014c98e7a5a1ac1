"""FedOBD beside the same training sent whole: bytes up, and accuracy, over several seeds.

Usage: ``fedobd.py [--backbone FOLDER] [--device cuda] [--seeds 0 1 2] [--only NAME ...]``, from the
repository's root. All rows are the recipe ``fedobd`` on the topics of Debian packages, in short;
they differ in how updates and models travel.
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

NNADQ: Mapping[str, object] = {"name": "nnadq", "weight": 1e-3}
FINE: Mapping[str, object] = {"name": "nnadq", "weight": 1e-4}
BLOCKWISE: Mapping[str, object] = {"name": "blockwise", "bits": 4}
WAYS: Mapping[str, tuple[object, bool]] = {
    "dense": ("float32", False),
    "NNADQ, weight 1e-4": (FINE, False),
    "FedOBD, weight 1e-4": (FINE, True),
    "FedOBD": (NNADQ, True),
    "FedOBD, blockwise": (BLOCKWISE, True),
}
"""How a number travels, and whether blocks are dropped, by name."""
DATA = {
    "path": "examples/data/debpkg-topic.jsonl.gz",
    "text": "text",
    "label": "topic",
    "client": "client",
    "split": "split",
    "max_clients": 60,
    "max_examples": 32,
    "max_test": 2000,
}


def job(name: str, seed: int, options: argparse.Namespace) -> dict[str, object]:
    """The recipe in one of the ways, in short."""
    codec, drops = WAYS[name]
    table = read_toml(recipes()["fedobd"])
    first, second = table["stages"]
    first |= {"rounds": options.rounds, "patience": 0, "clients_per_round": 15}
    first["local"] |= {"epochs": 2, "lr": options.lr}
    first["codec_up"] = {"name": "block-drop", "rate": 0.3, "inner": codec} if drops else codec
    second |= {"rounds": 3, "clients_per_round": 30}
    second["local"] |= {"lr": options.lr}
    table["backbone"] |= {"name": options.backbone, "max_tokens": 32}
    table |= {"seed": seed, "data": DATA, "codec_up": codec, "codec_down": codec}
    table["evaluate"] = {"split": "valid"}
    folder = options.output / f"{name}-{seed}"
    table["run"] = {"device": options.device, "directory": str(folder), "memory_gb": 4.0}
    return table


def measured(name: str, seed: int, options: argparse.Namespace) -> dict[str, object]:
    """One run's figures."""
    began = time.perf_counter()
    run = simulate(job(name, seed, options), observer=Quiet(), overwrite=True)
    lines = [line for line in run.history if line.round]
    return {
        "name": name,
        "seed": seed,
        "accuracy": run.summary.after["accuracy"],
        "curve": [round(line.evaluation["accuracy"], 4) for line in run.history],
        "rounds": len(lines),
        "updates": sum(line.accepted for line in lines),
        "up": lines[-1].total_bytes_up,
        "down": lines[-1].total_bytes_down,
        "seconds": round(time.perf_counter() - began),
    }


def table(rows: list[dict[str, object]]) -> str:
    """Markdown: means over the seeds; bytes are of one update."""
    found = ["| | accuracy | seeds | kB up | of dense | rounds |", "|---|---|---|---|---|---|"]
    numbers = {name: [r for r in rows if r["name"] == name] for name in WAYS}

    def average(name: str, key: str) -> float:
        return mean(float(str(row[key])) for row in numbers[name])

    dense = average("dense", "up") / average("dense", "updates") if numbers["dense"] else 0.0
    for name, own in numbers.items():
        if not own:
            continue
        up = average(name, "up") / average(name, "updates")
        seeds = ", ".join(f"{100 * float(str(row['accuracy'])):.1f}" for row in own)
        of = f"{up / dense:.1%}" if dense else ""
        accuracy, played = 100 * average(name, "accuracy"), average(name, "rounds")
        found.append(f"| {name} | {accuracy:.1f} | {seeds} | {up / 1e3:,.0f} | {of} | {played:g} |")
    return "\n".join(found)


def main() -> None:
    """Run what is asked for and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--backbone", default="minilm")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--lr", type=float, default=0.03)
    add_seeds(parser, WAYS)
    parser.add_argument("--output", type=Path, default=Path("runs/fedobd"))
    options = parser.parse_args()
    print(table(each_seed(options, measured)))


if __name__ == "__main__":
    main()
