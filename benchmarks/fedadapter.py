"""Time to an accuracy, by a device model: FedAdapter beside adapters of fixed depth and width.

Usage: ``fedadapter.py [--backbone FOLDER] [--device cuda] [--seeds 0 1 2] [--target 0.45]``, from
the repository's root. All rows are the recipe ``fedadapter`` on the topics of Debian packages, in
short; the fixed ones are FedAvg with as many clients as one group has. Each stops where its
simulated clock has passed `--horizon`, or once it is there.
"""

import argparse
import json
import time
from contextlib import suppress
from math import inf
from pathlib import Path
from statistics import median
from typing import Any

from fedloom.api import recipes, simulate
from fedloom.core.config import read_toml
from fedloom.results.observe import RoundLine, RunInfo, Summary

__all__ = ["ADAPTIVE", "FIXED"]

ADAPTIVE = "FedAdapter"
FIXED = ((1, 1), (1, 8), (2, 1), (2, 4), (4, 4), (6, 8))
"""Layers from the top, and units of 8, that train beside the head."""
LAYERS, UNITS = 6, 8
DATA = {
    "path": "examples/data/debpkg-topic.jsonl.gz",
    "text": "text",
    "label": "topic",
    "client": "client",
    "split": "split",
    "max_clients": 100,
    "max_examples": 16,
    "max_test": 400,
}


class Arrived(Exception):  # noqa: N818  # no error: it ends a run that has nothing left to show
    """The run is where it was to come, or its time is over."""


class Watch:
    """Notes when the accuracy is first reached, in simulated seconds."""

    def __init__(self, target: float, horizon: float) -> None:
        self.target, self.horizon = target, horizon
        self.clock, self.best, self.reached, self.rounds = 0.0, 0.0, inf, 0
        self.path: list[tuple[int, int]] = []

    def started(self, info: RunInfo) -> None:
        """Nothing."""

    def note(self, text: str) -> None:
        """Nothing."""

    def finished(self, summary: Summary) -> None:
        """Nothing."""

    def round_done(self, line: RoundLine) -> None:
        """One more round; of groups side by side the strategy has the clock."""
        self.clock = line.metrics.get("clock", line.simulated_seconds)
        self.rounds = line.round
        now = int(line.metrics.get("depth", 0)), int(line.metrics.get("units", 0))
        if now != (0, 0) and self.path[-1:] != [now]:
            self.path.append(now)
        self.best = max(self.best, line.evaluation.get("accuracy", 0.0))
        if self.best >= self.target:
            self.reached = self.clock
        if self.best >= self.target or self.clock > self.horizon:
            raise Arrived


def job(fixed: tuple[int, int] | None, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """The recipe in short, or FedAvg of one configuration."""
    table = read_toml(recipes()["fedadapter"])
    table["backbone"] |= {"name": options.backbone, "max_tokens": 32}
    table["local"]["lr"] = options.lr
    table["evaluate"] = {"split": "valid", "every": 3}
    table["strategy"] |= {"interval": options.interval, "depth": options.depth}
    table |= {"seed": seed, "data": DATA, "rounds": 10000, "clients_per_round": 3 * options.clients}
    if fixed is not None:
        depth, units = fixed
        lower = [f"!layer.{layer}" for layer in range(LAYERS - depth)]
        wider = [f"!unit.{unit}" for unit in range(units, UNITS)]
        table["train"] = [*table["train"], *lower, *wider]
        table |= {"strategy": {"name": "fedavg"}, "clients_per_round": options.clients}
    folder = str(options.output / f"{fixed or ADAPTIVE}-{seed}")
    table["run"] = {"device": options.device, "directory": folder, "memory_gb": 4.0}
    table["run"] |= {"checkpoint_every": 1000}
    return table


def measured(
    fixed: tuple[int, int] | None, seed: int, options: argparse.Namespace
) -> dict[str, Any]:
    """One run's figures."""
    began, watch = time.perf_counter(), Watch(options.target, options.horizon)
    with suppress(Arrived):
        simulate(job(fixed, seed, options), observer=watch, overwrite=True)
    return {
        "name": f"{fixed[0]} layers, width {8 * fixed[1]}" if fixed else ADAPTIVE,
        "seed": seed,
        "reached": watch.reached,
        "best": round(watch.best, 4),
        "clock": round(watch.clock, 1),
        "rounds": watch.rounds,
        "path": watch.path,
        "seconds": round(time.perf_counter() - began),
    }


def table(rows: list[dict[str, Any]], target: float) -> str:
    """Markdown: simulated seconds to the target, seed by seed, and beside the fixed ones."""
    found = [f"| | seconds to {target:.0%} | rounds | accuracy |", "|---|---|---|---|"]
    for name in dict.fromkeys(row["name"] for row in rows):
        own = [row for row in rows if row["name"] == name]
        when, rounds, best = (
            ", ".join(form.format(row[key]) for row in own)
            for key, form in (("reached", "{:.0f}"), ("rounds", "{}"), ("best", "{:.3f}"))
        )
        found.append(f"| {name} | {when} | {rounds} | {best} |")
    for seed in dict.fromkeys(row["seed"] for row in rows):
        of = {row["name"]: row["reached"] for row in rows if row["seed"] == seed}
        own = of.pop(ADAPTIVE, inf)
        if of:
            text = f"of the best fixed {own / min(of.values()):.2f}, of the median"
            found.append(f"\nSeed {seed}: {text} {own / median(of.values()):.2f}.")
    return "\n".join(found)


def main() -> None:
    """Run what is asked for and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--backbone", default="minilm")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--clients", type=int, default=5, help="of a group, in a round")
    parser.add_argument("--lr", type=float, default=0.1)
    parser.add_argument("--depth", type=int, default=1, help="where FedAdapter begins")
    parser.add_argument("--interval", type=float, default=1.0)
    parser.add_argument("--target", type=float, default=0.45)
    parser.add_argument("--horizon", type=float, default=80.0, help="simulated seconds")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--fixed", type=int, nargs="*", help="which of the fixed ones, by number")
    parser.add_argument("--output", type=Path, default=Path("runs/fedadapter"))
    options = parser.parse_args()
    chosen = range(len(FIXED)) if options.fixed is None else options.fixed
    rows = []
    for seed in options.seeds:
        for fixed in (None, *(FIXED[number] for number in chosen)):
            rows.append(measured(fixed, seed, options))
            print(json.dumps(rows[-1]), flush=True)
    print(table(rows, options.target))


if __name__ == "__main__":
    main()
