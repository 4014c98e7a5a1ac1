"""Time to an accuracy, by a device model: FedAdapter beside adapters of fixed depth and width.

Usage: ``fedadapter.py [--backbone FOLDER] [--device cuda] [--seeds 0 1 2] [--workers 15]``, from
the repository's root. All rows are the recipe ``fedadapter`` on the topics of Debian packages, in
short; the fixed ones are FedAvg with as many clients as one group has. Each stops where its
simulated clock has passed `--horizon`, or once it is at the highest target. With ``--write`` the
table and the curves go to `benchmarks/results`.
"""

import argparse
import json
import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import suppress
from math import inf
from pathlib import Path
from statistics import median
from typing import Any, TypeAlias

from fedloom.api import simulate
from fedloom.core.config import read_toml
from fedloom.results.observe import RoundLine, RunInfo, Summary
from fedloom.sources import recipes
from results import commit, machine, page, write_section

__all__ = ["ADAPTIVE", "FIXED"]

ADAPTIVE = "FedAdapter"
FIXED = ((1, 1), (1, 8), (2, 1), (2, 4), (4, 4), (6, 8))
"""Layers from the top, and units of 8, that train beside the head."""
LAYERS, UNITS = 6, 8
DATA = {
    "path": "examples/data/debpkg-topic.jsonl.gz",
    "text": "text",
    "label": "topic",
    "split": "split",
}
PARTITION = {"name": "dirichlet", "clients": 100, "alpha": 1.0}
EXAMPLES = 32
"""Of its own that a client trains on in a round."""
Fixed: TypeAlias = tuple[int, int] | None


class Arrived(Exception):  # noqa: N818  # no error: it ends a run that has nothing left to show
    """The run is where it was to come, or its time is over."""


class Watch:
    """Notes the accuracy by simulated seconds, and what FedAdapter trains."""

    def __init__(self, target: float, horizon: float) -> None:
        self.target, self.horizon = target, horizon
        self.clock, self.rounds = 0.0, 0
        self.curve: list[tuple[float, float]] = []
        self.path: list[tuple[float, int, int]] = []

    def started(self, info: RunInfo) -> None:
        """Nothing."""

    def note(self, text: str) -> None:
        """Nothing."""

    def finished(self, summary: Summary) -> None:
        """Nothing."""

    def round_done(self, line: RoundLine) -> None:
        """One more round; of groups side by side the strategy has the clock."""
        self.clock = round(line.metrics.get("clock", line.simulated_seconds), 2)
        self.rounds = line.round
        if "depth" in line.metrics:
            now = int(line.metrics["depth"]), int(line.metrics["units"])
            if not self.path or self.path[-1][1:] != now:
                self.path.append((self.clock, *now))
        accuracy = line.evaluation.get("accuracy")
        if accuracy is not None:
            self.curve.append((self.clock, round(accuracy, 4)))
        if (accuracy or 0.0) >= self.target or self.clock > self.horizon:
            raise Arrived


def job(fixed: Fixed, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """The recipe in short, or FedAvg of one configuration."""
    table = read_toml(recipes()["fedadapter"])
    table["backbone"] |= {"name": options.backbone, "max_tokens": 32}
    table["local"] |= {"lr": options.lr, "max_examples": EXAMPLES}
    table["evaluate"] = {"split": "valid", "every": 2}
    table["strategy"] |= {"interval": options.interval, "depth": options.depth}
    table |= {"seed": seed, "data": DATA, "partition": PARTITION, "rounds": 10000}
    table["clients_per_round"] = 3 * options.clients
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


def measured(options: argparse.Namespace, asked: tuple[int, Fixed]) -> dict[str, Any]:
    """One run's figures."""
    seed, fixed = asked
    began, watch = time.perf_counter(), Watch(max(options.targets), options.horizon)
    with suppress(Arrived):
        simulate(job(fixed, seed, options), observer=watch, overwrite=True)
    return {
        "name": f"{fixed[0]}, {8 * fixed[1]}" if fixed else ADAPTIVE,
        "seed": seed,
        "clock": watch.clock,
        "rounds": watch.rounds,
        "path": watch.path,
        "curve": watch.curve,
        "seconds": round(time.perf_counter() - began),
    }


def reached(row: dict[str, Any], target: float) -> float:
    """Simulated seconds to an accuracy."""
    return next((clock for clock, accuracy in row["curve"] if accuracy >= target), inf)


def told(rows: list[dict[str, Any]], targets: list[float]) -> list[list[str]]:
    """A table: simulated seconds to each target, seed by seed, and beside the fixed ones."""
    head = ["top layers, width", *(f"seconds to {target:.0%}" for target in targets)]
    found = [[*head, "best accuracy"]]
    for name in dict.fromkeys(row["name"] for row in rows):
        own = [row for row in rows if row["name"] == name]
        when = [", ".join(_seconds(reached(row, target)) for row in own) for target in targets]
        best = ", ".join(f"{max(a for _, a in row['curve']):.1%}" for row in own)
        found.append([name, *when, best])
    for text, of in (("of the best fixed one", min), ("of the median fixed one", median)):
        found.append([text, *(_ratios(rows, target, of) for target in targets), ""])
    return found


def _seconds(clock: float) -> str:
    return "-" if clock == inf else f"{clock:.0f}"


def _ratios(rows: list[dict[str, Any]], target: float, of: Any) -> str:
    """FedAdapter's time over one of the fixed ones', seed by seed; a dash where neither came."""
    found = []
    for seed in dict.fromkeys(row["seed"] for row in rows):
        when = {row["name"]: reached(row, target) for row in rows if row["seed"] == seed}
        own = when.pop(ADAPTIVE, inf)
        other = of(when.values()) if when else inf
        found.append("-" if own == inf else f"{own / other:.2f}")
    return ", ".join(found)


def main() -> None:
    """Run what is asked for and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--backbone", default="minilm")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--clients", type=int, default=5, help="of a group, in a round")
    parser.add_argument("--lr", type=float, default=0.1)
    parser.add_argument("--depth", type=int, default=1, help="where FedAdapter begins")
    parser.add_argument("--interval", type=float, default=1.0)
    parser.add_argument("--targets", type=float, nargs="+", default=[0.76, 0.78, 0.8])
    parser.add_argument("--horizon", type=float, default=200.0, help="simulated seconds")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--fixed", type=int, nargs="*", help="which of the fixed ones, by number")
    parser.add_argument("--workers", type=int, default=1, help="runs side by side")
    parser.add_argument("--write", action="store_true", help="into benchmarks/results")
    parser.add_argument("--output", type=Path, default=Path("runs/fedadapter"))
    options = parser.parse_args()
    chosen = range(len(FIXED)) if options.fixed is None else options.fixed
    each: list[Fixed] = [None, *(FIXED[number] for number in sorted(chosen, reverse=True))]
    asked = [(seed, fixed) for fixed in each for seed in options.seeds]  # the longest first
    began = time.perf_counter()
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(options.workers, mp_context=spawn) as pool:
        runs = [pool.submit(measured, options, one) for one in asked]
        for run in as_completed(runs):
            print(json.dumps(run.result()), flush=True)
        rows = [run.result() for run in runs]
    facts = {"machine": machine(), "device": options.device, "interval": f"{options.interval:g}"}
    facts |= {"commit": commit(), "took": f"{time.perf_counter() - began:.0f} s"}
    text = page("FedAdapter beside fixed adapters", told(rows, options.targets), facts)
    print(text)
    if options.write:
        folder = Path(__file__).parent / "results"
        write_section(folder, "fedadapter", rows, text, facts)


if __name__ == "__main__":
    main()
