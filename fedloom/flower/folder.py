"""The folder of an app's run: whether it may be used, and what a resumed run needs of it."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from fedloom.core.errors import RunError
from fedloom.flower.app import FlowerApp
from fedloom.results.observe import Summary
from fedloom.results.rundir import RunDirectory

__all__ = ["AppRun", "folder_for"]

_JOURNAL = "journal.bin"
_HOW = "--overwrite runs it again, --out elsewhere"


@dataclass(frozen=True)
class AppRun:
    """A run of an app.

    Attributes:
        path: of its folder.
        number: by which clients tell it from other runs.
        seed: of global generators.
        most: bytes that its journal may have; 0 for none.
    """

    path: Path
    number: int = 1
    seed: int = 0
    most: int = 0

    @property
    def directory(self) -> RunDirectory:
        """Of its lines and its summary."""
        return RunDirectory(self.path)

    @property
    def journal(self) -> Path:
        """Of what the ServerApp was told."""
        return self.path / _JOURNAL

    def finished(self, summary: Summary) -> None:
        """It is over: how it ended is kept, and the journal not."""
        self.directory.write_summary(summary)
        self.journal.unlink(missing_ok=True)


def folder_for(
    app: FlowerApp,
    out: str | None = None,
    *,
    overwrite: bool = False,
    resume: bool = False,
    live: bool = False,
    nodes: int = 0,
    seed: int = 0,
    most: int = 0,
) -> AppRun:
    """The folder of an app's run: empty, or with the part of it that was done.

    Args:
        app: whose.
        out: the folder; None for ``runs/NAME-app``.
        overwrite: delete what an earlier run left there.
        resume: go on with the run that is there.
        live: it is served, and not simulated.
        nodes: how many.
        seed: of global generators.
        most: bytes that the journal may have; 0 for none.

    Raises:
        RunError: there are files of another run in it, and it is not to be overwritten; or the run
            cannot be resumed.
    """
    path = Path(out or f"runs/{app.name}-app").expanduser()
    most = 0 if app.resumes_itself else most
    number = uuid4().int >> 65 if live else 1
    told = {
        "app": app.name,
        "folder": str(app.folder),
        "run_config": dict(app.config),
        "live": live,
        "nodes": nodes,
        "seed": seed,
        "run": number,
    }
    try:
        if path.exists() and any(path.iterdir()):
            if not (path / "app.json").exists():
                raise RunError(f"{path} is not empty, --out elsewhere")
            if resume and not overwrite and not _is_blank(path):
                number = _resumed(path, told, journal=not app.resumes_itself)
                return AppRun(path, number, seed, most)
            if not overwrite and not _is_blank(path):
                left = app.resumes_itself or (path / _JOURNAL).exists()
                raise RunError(f"{path} holds a run; {'--resume goes on, ' * left}{_HOW}")
            shutil.rmtree(path)
        path.mkdir(parents=True, exist_ok=True)
        (path / "app.json").write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        text = f"{error.filename or path}: cannot be written: {error.strerror}"
        raise RunError(f"{text}; choose another folder with --out") from None
    return AppRun(path, number, seed, most)


def _is_blank(path: Path) -> bool:
    """Whether there is nothing to lose: the run had not begun."""
    return not any((path / name).exists() for name in (_JOURNAL, "metrics.jsonl", "summary.json"))


def _resumed(path: Path, told: dict[str, Any], *, journal: bool) -> int:
    """The number of the run that is there, where it can go on."""
    found = RunDirectory(path).table("app")
    if (path / "summary.json").exists():
        raise RunError(f"{path} holds this run, finished; {_HOW}")
    if journal and not (path / _JOURNAL).exists():
        raise RunError(f"{path} holds a run that kept no journal, and cannot go on; {_HOW}")
    for name, value in told.items():
        if name not in ("folder", "run") and found.get(name) != value:
            raise RunError(f"{path} holds another run: {name} = {found.get(name)!r}, not {value!r}")
    return int(found["run"])
