"""Tables of docs/strategies.md, from the folders of a sweep's runs.

    fedloom sweep benchmarks/sweeps/strategies_natural.toml --jobs 2
    python benchmarks/sweep_tables.py strategies_natural runs/strategies-natural-sweep

Writes every run's figures to ``results/sweep-NAME.json`` and ``.md`` and fills in the cells of the
page's table: the mean over seeds and the sample standard deviation.
"""

import argparse
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, TypeAlias

from fedloom.core.errors import RunError
from fedloom.grid import folder_name, grid_of
from fedloom.record import Record
from results import write_section
from running import ROOT
from tables import markdown

PAGE = ROOT / "docs" / "strategies.md"
RESULTS = ROOT / "benchmarks" / "results"

Place: TypeAlias = tuple[str, str]
"""A row and a column."""


@dataclass(frozen=True)
class Run:
    """How one run ended; accuracies are in percent.

    Attributes:
        row: of the table.
        column: of the table.
        seed: the run's.
        accuracy: the last model's, on the test split.
        own: the mean of the clients' own models, on examples of theirs; None where they have none.
        machine: what it ran on.
    """

    row: str
    column: str
    seed: int
    accuracy: float
    own: float | None
    machine: str


def by_base(settings: Mapping[str, Any]) -> Place:
    """Where a combination stands that says it in the name of its base: ``column: row``."""
    column, _, row = settings["base"]["name"].partition(": ")
    return row, column


def by_attack(settings: Mapping[str, Any]) -> Place:
    """A row for each strategy, a column for each attack."""
    row, column = (
        one if isinstance(one, str) else one["name"]
        for one in (settings["strategy"], settings["attack"])
    )
    return row, column


PLACES: Mapping[str, Callable[[Mapping[str, Any]], Place]] = {
    "strategies_natural": by_base,
    "strategies_dirichlet": by_base,
    "attacks": by_attack,
}


def read(name: str, folder: Path) -> list[Run]:
    """The runs of a sweep.

    Raises:
        RunError: one of them is not there, or has not finished.
    """
    found = []
    for settings in grid_of(str(ROOT / "benchmarks" / "sweeps" / f"{name}.toml")):
        record = Record.read(folder / folder_name(settings))
        if record.state != "finished":
            raise RunError(f"{record.path}: {record.state}; run the sweep to its end")
        own = record.own_examples.get("personal_accuracy")
        versions = record.versions
        found.append(
            Run(
                *PLACES[name](settings),
                int(settings["seed"]),
                round(100 * record.after["accuracy"], 3),
                None if own is None else round(100 * own, 3),
                f"{versions['cpu']}, torch {versions['torch']}",
            )
        )
    return found


def grouped(runs: Iterable[Run]) -> dict[Place, list[Run]]:
    """Runs that differ in their seed only, by their place."""
    found: dict[Place, list[Run]] = {}
    for run in runs:
        found.setdefault((run.row, run.column), []).append(run)
    return found


def spread(values: Sequence[float]) -> str:
    """Mean and sample standard deviation.

    >>> spread([60.0, 62.0]), spread([60.0])
    ('61.0 ± 1.4', '60.0')
    """
    return f"{fmean(values):.1f}" + (f" ± {stdev(values):.1f}" if len(values) > 1 else "")


def cell(runs: Sequence[Run]) -> str:
    """What the page's table says of some runs."""
    own = [run.own for run in runs if run.own is not None]
    return spread([run.accuracy for run in runs]) + (f"; own {spread(own)}" if own else "")


def filled(text: str, cells: Mapping[Place, str]) -> str:
    """A page with the cells of its tables filled in.

    A row is called by what stands in its first cell, without backticks, a column by the first word
    of its head, before any bracket, in small letters. Cells of other names stay as they are.

    >>> page = "| strategy | natural (1) |\\n| --- | ---: |\\n| `fedavg` | ? |\\n| other | ? |"
    >>> print(filled(page, {("fedavg", "natural"): "61.0"}))
    | strategy | natural (1) |
    | --- | ---: |
    | `fedavg` | 61.0 |
    | other | ? |
    """
    lines: list[str] = []
    columns: list[str] = []
    for line in text.splitlines():
        if not line.startswith("| "):
            columns = []
        elif not columns:
            columns = [_called(head) for head in _cells(line)]
        else:
            row, *rest = _cells(line)
            own = ((row.replace("`", ""), name) for name in columns[1:])
            new = [cells.get(key, old) for key, old in zip(own, rest, strict=True)]
            line = line if new == rest else "| " + " | ".join([row, *new]) + " |"
        lines.append(line)
    return "\n".join(lines) + ("\n" if text.endswith("\n") else "")


def _cells(line: str) -> list[str]:
    return [one.strip() for one in line.strip().strip("|").split("|")]


def _called(head: str) -> str:
    return (head.split() or [""])[0].partition("(")[0].lower()


def every_run(groups: Mapping[Place, Sequence[Run]]) -> str:
    """A table with the accuracy of each seed."""
    head = ["strategy", "", "by seed", "mean", "own models, by seed"]
    rows = [
        [
            *place,
            ", ".join(f"{run.accuracy:.1f}" for run in runs),
            spread([run.accuracy for run in runs]),
            ", ".join(f"{run.own:.1f}" for run in runs if run.own is not None),
        ]
        for place, runs in groups.items()
    ]
    return markdown([head, *rows])


def main() -> None:
    """Read the runs, write what they came to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=_Plain)
    parser.add_argument("name", choices=PLACES)
    parser.add_argument("folder", type=Path, help="the folder of the sweep's runs")
    parser.add_argument("--machine", default="", help="what they ran on, where more is to be said")
    asked = parser.parse_args()
    runs = read(asked.name, asked.folder)
    groups = grouped(runs)
    text = f"### benchmarks/sweeps/{asked.name}.toml: test accuracy, %\n\n{every_run(groups)}\n"
    machine = asked.machine or "; ".join(dict.fromkeys(run.machine for run in runs))
    facts = {"machine": machine, "command": f"fedloom sweep benchmarks/sweeps/{asked.name}.toml"}
    told = "; ".join(f"{key}: {value}" for key, value in facts.items())
    results = [{k: v for k, v in vars(run).items() if k != "machine"} for run in runs]
    write_section(RESULTS, f"sweep-{asked.name}", results, f"{text}\n{told}\n", facts)
    page = PAGE.read_text(encoding="utf-8")
    cells = {place: cell(runs) for place, runs in groups.items()}
    PAGE.write_text(filled(page, cells), encoding="utf-8")


class _Plain(argparse.RawDescriptionHelpFormatter):
    """Keeps the lines of the description."""


if __name__ == "__main__":
    main()
