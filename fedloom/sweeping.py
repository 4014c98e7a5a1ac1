"""Runs every job of a grid, one after the other, each in a folder of its own."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from fedloom.core.config import to_table
from fedloom.core.errors import FedloomError
from fedloom.core.job import Job
from fedloom.core.types import Metrics
from fedloom.grid import Grid, Settings, folder_name
from fedloom.record import Record
from fedloom.results.compare import differences
from fedloom.results.observe import Observer
from fedloom.results.rundir import RunDirectory
from fedloom.sources import job_of

__all__ = ["Outcome", "Started", "run_grid"]


@dataclass(frozen=True)
class Outcome:
    """How one job of a sweep ended.

    Attributes:
        settings: its values by dotted key.
        directory: its folder.
        state: ``finished``, ``refused``, or ``interrupted``.
        why: of a refused one, what was wrong.
        metrics: the last model's evaluation; with ``clients_`` before it, of clients' own examples
            held at home, and of their own models (``clients_personal_``).
        spent: what its rounds cost.
        rounds: rounds that are done.
    """

    settings: Settings
    directory: Path
    state: str
    why: str = ""
    metrics: Metrics = field(default_factory=dict)
    spent: Metrics = field(default_factory=dict)
    rounds: int = 0


Started = Callable[[int, Settings], Observer]
"""Told of each job before it runs, by its number from 1; gives who watches it."""


def run_grid(
    grid: Grid,
    folder: Path,
    started: Started,
    ended: Callable[[int, Outcome], None],
    part: tuple[int, int] = (1, 1),
) -> list[Outcome]:
    """Run what is left of a grid; each job has the name of its folder.

    A job that has finished in its folder is not run again; one that was broken off goes on. A job
    that cannot run is noted as refused, and the next one follows. Ctrl-C ends the job at hand and
    with it the sweep.

    Args:
        grid: the jobs.
        folder: where their folders are.
        started: told of each job that is run.
        ended: told of each job's end.
        part: ``(i, n)``: every n-th job only, from the i-th.
    """
    outcomes: list[Outcome] = []
    for number, settings in islice(enumerate(grid, start=1), part[0] - 1, None, part[1]):
        directory = folder / folder_name(settings)
        try:
            named = {**grid.fixed, "name": directory.name, "run.directory": str(directory)}
            own = {key: value for key, value in settings.items() if key != "base"}
            job = job_of(grid.under(settings), {**named, **own})
            if not _has_finished(job, directory):
                _run(job, started(number, settings))
            outcome = _read(settings, directory)
        except FedloomError as error:
            outcome = Outcome(settings, directory, "refused", str(error))
        outcomes.append(outcome)
        ended(number, outcome)
        if outcome.state == "interrupted":
            break
    return outcomes


def _has_finished(job: Job, directory: Path) -> bool:
    run = RunDirectory(directory)
    if not (directory / "summary.json").exists() or run.summary().get("interrupted"):
        return False
    return not differences(run.config(), to_table(job))


def _run(job: Job, observer: Observer) -> None:
    from fedloom.simulation.simulator import simulate  # loads torch

    simulate(job, observer=observer, resume=True)


def _read(settings: Settings, directory: Path) -> Outcome:
    record = Record.read(directory)
    spent: Mapping[str, float] = record.summary.get("spent") or {}
    own = {f"clients_{name}": value for name, value in record.own_examples.items()}
    state = "finished" if record.state == "finished" else "interrupted"
    return Outcome(
        settings,
        directory,
        state,
        metrics={**record.after, **own},
        spent=spent,
        rounds=record.done,
    )
