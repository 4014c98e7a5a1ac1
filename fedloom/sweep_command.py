"""``fedloom sweep``: a grid of jobs, one after the other, and a table of them."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

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
        "'RECIPE or FILE' the keys of CONFIG lie over another configuration."
    )
    text = "a TOML file, a packaged sweep (fedloom list sweeps) or a recipe"
    add("config", metavar="CONFIG", help=text)
    hint = "values of one key, such as local.lr=0.1,0.2; may be repeated; wins over [sweep]"
    add("--grid", action="append", default=[], metavar="KEY=V1,V2", dest="lists", help=hint)
    hint = "change a value for all of them, such as rounds=5; may be repeated"
    add("--set", action="append", default=[], metavar="KEY=VALUE", dest="assignments", help=hint)
    add("--out", metavar="DIR", help="folder of the runs' folders (default: runs/NAME-sweep)")
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
    progress = _Progress(len(grid), quiet=options.quiet)
    outcomes = run_grid(grid, folder, progress.started, progress.ended)
    print(as_text(outcomes))
    page = write_table(outcomes, folder)
    print(f"{page.with_name('sweep.csv')}  {page}", file=sys.stderr)
    stopped = any(outcome.state == "interrupted" for outcome in outcomes)
    if stopped:
        print("interrupted: the same command goes on", file=sys.stderr)
    return _INTERRUPTED if stopped else 0


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
