"""An app's run: its ServerApp over a carrier, watched, written down in the run's folder."""

import json
import logging
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from flwr.app import Context, RecordDict

from fedloom.core.errors import RunError
from fedloom.flower.app import FlowerApp
from fedloom.flower.grid import RUN, AppGrid, Carrier
from fedloom.flower.watching import Rounds
from fedloom.results.observe import Observer, RoundLine, RunInfo, Summary
from fedloom.results.rundir import RunDirectory
from fedloom.strategies.flower.hosting import borrowed_randomness, identified

__all__ = ["folder_for", "run_server_app"]

_KEYS = ("num-server-rounds", "num-rounds", "rounds")


def folder_for(app: FlowerApp, out: str | None, *, overwrite: bool) -> RunDirectory:
    """The folder of an app's run, empty.

    Raises:
        RunError: there are files of another run in it, and it is not to be overwritten.
    """
    path = Path(out or f"runs/{app.name}-app").expanduser()
    if path.exists() and any(path.iterdir()):
        ours = (path / "app.json").exists()
        if not (overwrite and ours):
            text = "holds a run; --overwrite runs it again" if ours else "is not empty"
            raise RunError(f"{path} {text}, --out elsewhere")
        shutil.rmtree(path)
    path.mkdir(parents=True, exist_ok=True)
    told = {"app": app.name, "folder": str(app.folder), "run_config": dict(app.config)}
    (path / "app.json").write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
    return RunDirectory(path)


def run_server_app(
    app: FlowerApp, carrier: Carrier, directory: RunDirectory, observer: Observer, *, seed: int = 0
) -> Summary:
    """Run the ServerApp's main function to its end.

    Python's and numpy's global generators start from the seed, so that what samples by them does
    the same again in a simulation.

    Args:
        app: whose.
        carrier: of messages.
        directory: gets a line for each round, and how it ended.
        observer: told of every round.
        seed: of global generators.
    """
    identified()
    began = time.monotonic()
    planned = next((int(app.config[key]) for key in _KEYS if key in app.config), 0)
    rounds = Rounds(lambda line: _line(directory, observer, line, planned))
    context = Context(RUN, 1, {}, RecordDict(), dict(app.config))
    clients = len(carrier.nodes())
    observer.started(RunInfo(app.name, directory.path, planned, ("flower",), clients=clients))
    with borrowed_randomness(seed, "app", round=0), _quiet(directory.path):
        app.server_app()(AppGrid(carrier, rounds.watch), context)
    rounds.finish()
    elapsed = time.monotonic() - began
    summary = Summary({}, rounds.evaluated, rounds.count, elapsed, directory.path)
    directory.write_summary(summary)
    observer.finished(summary)
    return summary


def _line(directory: RunDirectory, observer: Observer, line: RoundLine, planned: int) -> None:
    line = replace(line, rounds=max(planned, line.round))
    directory.append(line)
    observer.round_done(line)


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
