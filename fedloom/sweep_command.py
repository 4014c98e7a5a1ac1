"""``fedloom sweep``: a grid of jobs, one after the other, and a table of them."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from fedloom.core.errors import ConfigError

if TYPE_CHECKING:
    from fedloom.grid import Settings
    from fedloom.results.observe import Observer
    from fedloom.sweeping import Outcome

__all__ = ["add_sweep"]

_INTERRUPTED = 130


def add_sweep(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    add = parser.add_argument
    parser.description = (
        "Simulate every combination of some values, one after the other, and show the mean and "
        "standard deviation over seeds. What has finished is not run again; the same command goes "
        "on where it was broken off. A combination that cannot run is told in its row."
    )
    parser.epilog = (
        'A [sweep] table in CONFIG has lists by dotted key: "adapter.name" = ["lora", "bitfit"], '
        "seed = [0, 1, 2]. Names may have options: { name = 'lora', rank = 4 }. With base = "
        "'RECIPE or FILE' the keys of CONFIG lie over another configuration; base may vary, too."
    )
    text = "a TOML file, a packaged sweep (fedloom list sweeps) or a recipe"
    add("config", metavar="CONFIG", help=text)
    hint = "values of one key, such as local.lr=0.1,0.2; may be repeated; wins over [sweep]"
    add("--grid", action="append", default=[], metavar="KEY=V1,V2", dest="lists", help=hint)
    hint = "change a value for all of them, such as rounds=5; may be repeated"
    add("--set", action="append", default=[], metavar="KEY=VALUE", dest="assignments", help=hint)
    add("--out", metavar="DIR", help="folder of the runs' folders (default: runs/NAME-sweep)")
    hint = "run so many side by side, each in a process of its own (default: 1)"
    add("--jobs", type=int, default=1, metavar="N", help=hint)
    hint = "run every N-th combination from the I-th only, and show no table: for several machines"
    add("--part", default="1/1", metavar="I/N", help=hint)
    add("--dry-run", action="store_true", help="list the combinations and run none")
    add("--quiet", action="store_true", help="show the table only")
    parser.set_defaults(command=_sweep, resume_hint="the same command goes on")


def _sweep(options: argparse.Namespace) -> int:
    from fedloom.grid import grid_of
    from fedloom.sweep_table import as_text, write_table
    from fedloom.sweeping import run_grid

    grid = grid_of(options.config, options.assignments, options.lists)
    if options.dry_run:
        for number, settings in enumerate(grid, start=1):
            print(f"{number}/{len(grid)}  {_told(settings)}")
        return 0
    name = {**grid.table, **grid.fixed}.get("name", Path(options.config).stem)
    folder = Path(options.out or f"runs/{name}-sweep")
    part, jobs = _part(options.part), min(_jobs(options), len(grid))
    if jobs > 1:
        _side_by_side(options, jobs)
    progress = _Progress(len(grid), quiet=options.quiet or jobs > 1)
    outcomes = run_grid(grid, folder, progress.started, progress.ended, part)
    stopped = any(outcome.state == "interrupted" for outcome in outcomes)
    if part != (1, 1):
        return _INTERRUPTED if stopped else 0
    print(as_text(outcomes))
    page = write_table(outcomes, folder)
    print(f"{page.with_name('sweep.csv')}  {page}", file=sys.stderr)
    if stopped:
        print("interrupted: the same command goes on", file=sys.stderr)
    return _INTERRUPTED if stopped else 0


def _part(text: str) -> tuple[int, int]:
    """``I/N`` as two numbers."""
    first, slash, every = text.partition("/")
    found = (int(first), int(every)) if first.isdecimal() and every.isdecimal() else (0, 0)
    if not slash or not 1 <= found[0] <= found[1]:
        raise ConfigError(f"--part {text!r}: expected I/N with I from 1 to N, such as 2/4")
    return found


def _jobs(options: argparse.Namespace) -> int:
    jobs: int = options.jobs
    if jobs < 1 or (jobs > 1 and options.part != "1/1"):
        raise ConfigError(f"--jobs {jobs}: expected 1 or more, and 1 beside --part")
    return jobs


def _side_by_side(options: argparse.Namespace, jobs: int) -> None:
    """Run the same command in parts, each in a process of its own, and wait for all.

    What one of them leaves undone is left to whoever reads the folders. Ctrl-C reaches all of them.
    """
    import os
    import subprocess

    from fedloom.core import machine

    command = [sys.executable, "-m", "fedloom", "sweep", options.config]
    command += [f"--grid={text}" for text in options.lists]
    command += [f"--set={text}" for text in options.assignments]
    command += [f"--out={options.out}"] if options.out else []
    command += ["--quiet"] if options.quiet else []
    threads = str(max(1, machine.cores() // jobs))
    environment = {"OMP_NUM_THREADS": threads, **os.environ}
    parts = [[*command, f"--part={i}/{jobs}"] for i in range(1, jobs + 1)]
    running = [subprocess.Popen(one, env=environment) for one in parts]
    try:
        for process in running:
            process.wait()
    finally:
        for process in running:  # an interrupt: each ends its round, and says so
            process.wait()


def _told(settings: "Settings") -> str:
    from fedloom.grid import short

    return "  ".join(f"{key}={short(value)}" for key, value in settings.items())


class _Progress:
    """A line when a job begins, and one when it ends."""

    def __init__(self, total: int, *, quiet: bool) -> None:
        self._total, self._quiet = total, quiet

    def started(self, number: int, settings: "Settings") -> "Observer":
        """Say which job begins."""
        from fedloom.progress import Quiet

        self._say(f"{number}/{self._total}  {_told(settings)}")
        return Quiet()

    def ended(self, number: int, outcome: "Outcome") -> None:
        """Say how it ended."""
        from fedloom.readable import METRICS, headline, value_text

        name = headline(outcome.metrics)
        text = f"{METRICS[name].title} {value_text(name, outcome.metrics[name])}" if name else ""
        told = f"refused: {outcome.why}" if outcome.state == "refused" else text
        if outcome.state == "interrupted":
            told = f"interrupted after round {outcome.rounds}"
        self._say(f"{number}/{self._total}  {told}")

    def _say(self, text: str) -> None:
        if not self._quiet:
            print(text, file=sys.stderr, flush=True)
