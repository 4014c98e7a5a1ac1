"""The folder of a run: what is in it, and when it may be used again.

config.json       the resolved job
choices.json      what it chose by looking at the machine: type, clients trained at once
versions.json     what computed it: fedloom, Python, libraries, processor
metrics.jsonl     one line per round, safe on disk before the next round begins
partition.json    sizes and label counts of the clients
checkpoints/      round-000012.safetensors: the last few states
personal/, remembered/   tensors that clients keep, and strategies keep of each of them
adapter/          the trained adapter
clients.json      the last model's evaluation on each client's own examples
summary.json      how it ended
events/           TensorBoard's event files
plots/*.png, report.html
"""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fedloom.core.config import to_table
from fedloom.core.errors import ConfigError, RunError
from fedloom.core.job import Job
from fedloom.core.types import ClientId, Metrics
from fedloom.results.compare import differences, other_job
from fedloom.results.history import History, json_values, line_to_json
from fedloom.results.observe import RoundLine, Summary
from fedloom.results.versions import versions
from fedloom.results.whole_files import PARTIAL, replaced, replaced_json, writing

__all__ = ["RunDirectory"]

_FILES = (
    *("choices.json", "versions.json", "metrics.jsonl", "partition.json", "clients.json"),
    *("summary.json", "report.html"),
)
_FOLDERS = ("checkpoints", "personal", "remembered", "adapter", "plots", "events")
_CLIENTS_WITH_LABELS = 200
_SIZES_KEPT = 1000


class RunDirectory:
    """One run's folder. `create` starts or resumes a run in it; the constructor only reads.

    Attributes:
        path: the folder.
        keep: checkpoints kept.
    """

    def __init__(self, path: Path, *, keep: int = 2) -> None:
        self.path = path
        self.keep = keep

    @staticmethod
    def of(job: Job) -> "RunDirectory":
        """The folder that ``job.run.directory`` names, whatever is there."""
        text = job.run.directory.replace("{name}", job.name).replace("{seed}", str(job.seed))
        if "{" in text or not text.strip():
            raise ConfigError(f"run.directory = {text!r}: only {{name}} and {{seed}} are filled in")
        return RunDirectory(Path(text).expanduser(), keep=job.run.keep)

    @staticmethod
    def check(job: Job, *, resume: bool = False, overwrite: bool = False) -> "RunDirectory":
        """Raise what `create` would, and change nothing; return the folder as it is.

        Raises:
            RunError: as `create`.
        """
        run = RunDirectory.of(job)
        nearest = next(p for p in (run.path, *run.path.absolute().parents) if p.exists())
        if not (nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK)):
            text = f"{nearest}: not a folder that can be written to"
            raise RunError(f"{text}; choose another with --out")
        if nearest == run.path:
            run._check_ours()
            if not (overwrite or run._is_blank()):
                run._check_same(job, resume=resume)
        return run

    @staticmethod
    def create(job: Job, *, resume: bool = False, overwrite: bool = False) -> "RunDirectory":
        """The folder that ``job.run.directory`` names, ready for the next round.

        With `resume`, what is there is kept up to the last checkpoint; where no round is done, the
        run starts afresh, whatever was to be run there. With `overwrite`, the files of an earlier
        run are deleted, and only they.

        Raises:
            RunError: the folder holds another job, or this one and neither flag is given, or files
                that are no run's, or cannot be written.
        """
        run = RunDirectory.of(job)
        with writing(run.path):
            run.path.mkdir(parents=True, exist_ok=True)
            run._check_ours()
            if overwrite or run._is_blank():
                run._delete()
            else:
                run._check_same(job, resume=resume)
            replaced_json(run.path / "config.json", to_table(job))
            replaced_json(run.path / "versions.json", versions())
            (run.path / "checkpoints").mkdir(exist_ok=True)
            run.rewind()
        return run

    def _check_ours(self) -> None:
        """Raise `RunError` if there are files, and no run that they could belong to."""
        files = (path for path in self.path.iterdir() if not path.name.endswith(PARTIAL))
        if not (self.path / "config.json").exists() and any(files):
            text = f"{self.path} is not empty and holds no run; choose another with --out"
            raise RunError(text)

    def _is_blank(self) -> bool:
        """Whether there is nothing to lose: no round is done."""
        return not len(self.history()) and not self.last_checkpoint

    def _delete(self) -> None:
        """Delete what a run leaves, and nothing else; its configuration is written over."""
        for name in _FOLDERS:
            shutil.rmtree(self.path / name, ignore_errors=True)
        for name in _FILES:
            (self.path / name).unlink(missing_ok=True)

    def _check_same(self, job: Job, *, resume: bool) -> None:
        """Raise `RunError` unless the run that is there is of `job` and may go on."""
        found = differences(self.config(), to_table(job))
        if found:
            raise RunError(other_job(self.path, found))
        if not resume:
            raise RunError(self._already_there())

    def _already_there(self) -> str:
        if (self.path / "summary.json").exists() and not self.summary()["interrupted"]:
            text = f"{self.path} holds this run, finished; "
            return text + "--overwrite runs it again, --out elsewhere"
        last = self.history().last
        rounds = last.round if last else 0
        text = f"{self.path} holds this run, unfinished after {rounds} rounds; "
        return text + "--resume goes on, --overwrite starts again"

    def rewind(self) -> None:
        """Forget what came after the last checkpoint; it is written again, or `RunError` raised."""
        path = self.path / "metrics.jsonl"
        with writing(path):
            (self.path / "summary.json").unlink(missing_ok=True)
            if path.exists():
                done = self.last_checkpoint
                lines = self.history().until(done) if done else History()
                replaced(path, "".join(line_to_json(line) + "\n" for line in lines).encode())

    @property
    def adapter(self) -> Path:
        """Where the trained adapter goes."""
        return self.path / "adapter"

    def config(self) -> dict[str, Any]:
        """The resolved job as a table.

        Raises:
            RunError: there is none: the folder holds no run.
        """
        if not (self.path / "config.json").exists():
            raise RunError(f"{self.path}: no run here (no config.json)")
        return self.table("config")

    def summary(self) -> dict[str, Any]:
        """How the run ended, or an empty table while it has not."""
        return self.table("summary")

    def table(self, name: str) -> dict[str, Any]:
        """A JSON file of the run by the stem of its name; empty where there is none.

        Raises:
            RunError: the file is not JSON.
        """
        path = self.path / f"{name}.json"
        if not path.exists():
            return {}
        try:
            table: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise RunError(f"{path}: not JSON: {error}") from None
        return table

    def history(self) -> History:
        """The rounds on disk."""
        return History.read(self.path / "metrics.jsonl")

    def append(self, line: RoundLine) -> None:
        """Add a round; it is on the disk when this returns.

        Raises:
            RunError: it cannot be written.
        """
        path = self.path / "metrics.jsonl"
        with writing(path), path.open("a", encoding="utf-8") as file:
            file.write(line_to_json(line) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def checkpoints(self) -> dict[int, Path]:
        """Complete checkpoints by round, ascending."""
        paths = sorted((self.path / "checkpoints").glob("round-*.safetensors"))
        return {int(path.stem.removeprefix("round-")): path for path in paths}

    @property
    def last_checkpoint(self) -> int:
        """Round of the newest checkpoint, or 0 where there is none."""
        return max(self.checkpoints(), default=0)

    def checkpoint_path(self, round: int) -> Path:
        """Where the state after a round goes."""
        return self.path / "checkpoints" / f"round-{round:06d}.safetensors"

    def prune(self) -> None:
        """Delete all but the newest checkpoints.

        Raises:
            RunError: one cannot be deleted.
        """
        for old in list(self.checkpoints().values())[: -self.keep]:
            with writing(old):
                old.unlink()

    def write_partition(
        self,
        sizes: Mapping[ClientId, int],
        labels: Mapping[ClientId, Mapping[str, int]],
        statistics: Mapping[str, float],
    ) -> None:
        """Keep who holds what: all sizes (thinned to 1000) and the labels of the largest clients.

        Args:
            sizes: training examples of each client.
            labels: examples per label of each client; empty where there are no labels.
            statistics: numbers about the partition, by name.
        """
        largest = sorted(sizes, key=lambda c: (-sizes[c], c))[:_CLIENTS_WITH_LABELS]
        rows = [{"client": c, "examples": sizes[c], "labels": labels.get(c, {})} for c in largest]
        table = {
            "clients": len(sizes),
            "examples": sum(sizes.values()),
            "sizes": _thin(sorted(sizes.values())),
            "largest": rows,
            "statistics": statistics,
        }
        self._save("partition", table)

    def write_clients(self, clients: Mapping[ClientId, Metrics]) -> None:
        """Keep the last model's evaluation on each client's own examples."""
        self._save("clients", clients)

    def write_choices(self, choices: Mapping[str, str | int]) -> None:
        """Keep what the run chose by looking at the machine."""
        self._save("choices", choices)

    def write_summary(self, summary: Summary) -> None:
        """Keep how the run ended."""
        self._save("summary", summary)

    def _save(self, name: str, value: object) -> None:
        path = self.path / f"{name}.json"
        with writing(path):
            replaced_json(path, json_values(value))


def _thin(ordered: list[int]) -> list[int]:
    """At most 1000 of ascending numbers, evenly spaced by rank."""
    ranks = np.linspace(0, len(ordered) - 1, min(len(ordered), _SIZES_KEPT)).round()
    return [ordered[int(rank)] for rank in ranks]
