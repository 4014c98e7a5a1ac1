"""An app's run: its ServerApp over a carrier, watched, written down in the run's folder."""

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from flwr.app import Context, RecordDict

from fedloom.core.errors import FedloomError
from fedloom.flower.app import FlowerApp
from fedloom.flower.folder import AppRun
from fedloom.flower.grid import AppGrid, Carrier
from fedloom.flower.journal import Journal
from fedloom.flower.randomness import seeded
from fedloom.flower.recorded import Recorded
from fedloom.flower.watching import Rounds
from fedloom.results.observe import Observer, RoundLine, RunInfo, Summary
from fedloom.strategies.flower.hosting import identified

__all__ = ["run_server_app"]

_KEYS = ("num-server-rounds", "num-rounds", "rounds")
_RESUME = "--resume goes on with the run, once the app is mended"


def run_server_app(app: FlowerApp, carrier: Carrier, run: AppRun, observer: Observer) -> Summary:
    """Run the ServerApp's main function to its end.

    Python's, numpy's and torch's global generators start from the seed, so that what samples by
    them does the same again.

    Args:
        app: whose.
        carrier: of messages.
        run: gets a line for each round, and how it ended; where a part of it was done before, the
            ServerApp is told the same again.
        observer: told of every round.

    Raises:
        RunError: it was resumed, and does not do the same again.
    """
    identified(run.number)
    began = time.monotonic()
    journal = Journal(run.journal, most=run.most) if run.most else None
    lines = _Lines(app, run, observer)
    rounds = Rounds(lines.add, after=lines.done if app.resumes_itself else 0)
    context = Context(run.number, 1, {}, RecordDict(), dict(app.config))
    info = RunInfo(app.name, run.path, lines.planned, ("flower",), clients=len(carrier.nodes()))
    observer.started(replace(info, resumed_from=lines.done))
    try:
        recorded = None
        if journal is not None:
            recorded = carrier = Recorded(carrier, journal, observer.note)
        with seeded(run.seed, "app"), _quiet(run.path):
            app.server_app()(AppGrid(carrier, rounds.watch, run=run.number), context)
        if recorded is not None:
            recorded.check()
    except Exception as error:
        if journal is not None and journal.kept and not isinstance(error, FedloomError):
            error.add_note(f"{run.path}: {_RESUME}")
        raise
    finally:
        if journal is not None:
            journal.close()
    rounds.finish()
    elapsed = lines.before + time.monotonic() - began
    summary = Summary({}, rounds.evaluated, rounds.count, elapsed, run.path)
    run.finished(summary)
    observer.finished(summary)
    return summary


class _Lines:
    """The lines of a run's rounds, of which some may be written already."""

    def __init__(self, app: FlowerApp, run: AppRun, observer: Observer) -> None:
        self._directory, self._observer = run.directory, observer
        last = self._directory.history().last
        self.done, self.before = (last.round, last.elapsed) if last else (0, 0.0)
        self._written = last is not None
        found = (app.config[key] for key in _KEYS if key in app.config)
        self.planned = next((value for value in found if type(value) is int), 0)

    def add(self, line: RoundLine) -> None:
        """Write a line down, and tell of it."""
        if self._written and line.round <= self.done:
            return
        line = replace(
            line, rounds=max(self.planned, line.round), elapsed=self.before + line.elapsed
        )
        self._directory.append(line)
        self._observer.round_done(line)


@contextmanager
def _quiet(folder: Path) -> Iterator[None]:
    """Flower's running commentary goes to a file of the run, errors to the terminal too."""
    log = logging.getLogger("flwr")
    before, handler = list(log.handlers), logging.FileHandler(folder / "flwr.log")
    shown = logging.StreamHandler(sys.stderr)
    shown.setLevel(logging.ERROR)
    log.handlers[:] = [handler, shown]
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.handlers[:] = before
        handler.close()
