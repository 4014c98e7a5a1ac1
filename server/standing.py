"""Where a live federation stands, for people and programs that ask beside the running server."""

import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from fedloom.core.cost import Cost
from fedloom.core.errors import RunError

__all__ = ["Sign", "Standing", "read_standing", "write_standing"]

_FILE = "standing.json"
_SELDOM = 0.25
"""Seconds between two writes while a round is on."""


@dataclass(frozen=True)
class Standing:
    """A moment of a live federation.

    Attributes:
        name: the job's name.
        phase: ``waiting`` (for clients), ``training``, ``evaluating``, ``paused``, ``finished``,
            ``stopped``.
        round: the round that is on, or was last.
        rounds: rounds of all stages together.
        stage: name of the stage.
        asked: clients that the round asked.
        arrived: updates that have been acknowledged in it.
        refused: of its clients, those that will not answer.
        present: clients that are there.
        bytes_up: bytes that clients sent so far, in finished rounds.
        bytes_down: bytes that clients received so far, in finished rounds.
        seconds_per_round: mean of the finished rounds of this process; 0 before the first.
        evaluation: the newest evaluation.
        resyncs: clients of this process whose model was not the server's.
        address: name or address that clients dial.
        port: where enrolled clients work.
        enrol_port: where new ones enrol; 0 without TLS.
        written: seconds since 1970 at which this was written.
        pid: process of the server.
    """

    name: str
    phase: str = "waiting"
    round: int = 0
    rounds: int = 0
    stage: str = ""
    asked: int = 0
    arrived: int = 0
    refused: int = 0
    present: int = 0
    bytes_up: int = 0
    bytes_down: int = 0
    seconds_per_round: float = 0.0
    evaluation: dict[str, float] | None = None
    resyncs: int = 0
    address: str = ""
    port: int = 0
    enrol_port: int = 0
    written: float = 0.0
    pid: int = 0

    def carried(self, cost: Cost) -> dict[str, int]:
        """Bytes up and down with those of one more round."""
        up, down = self.bytes_up + cost.bytes_up, self.bytes_down + cost.bytes_down
        return {"bytes_up": up, "bytes_down": down}

    @property
    def eta(self) -> float | None:
        """Seconds until the last round ends, if rounds go on as they did; None where unknown."""
        if not self.seconds_per_round:
            return None
        return self.seconds_per_round * max(self.rounds - self.round + 1, 0)


class Sign:
    """Writes where a federation stands as it changes, but not more often than people can read.

    Args:
        folder: the state folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._written = float("-inf")

    def __call__(self, standing: Standing) -> None:
        """Write it down, if it is time for that; the next sign of life tells the rest."""
        now, steady = time.monotonic(), standing.phase in ("training", "evaluating", "waiting")
        if steady and now - self._written < _SELDOM:
            return
        self._written = now
        write_standing(self._folder, standing)


def write_standing(folder: Path, standing: Standing) -> None:
    """Replace the file in the state folder; it need not survive a crash.

    A disk that is full loses nothing but this view.
    """
    table = {**asdict(standing), "written": time.time(), "pid": os.getpid()}
    draft = folder / f".{_FILE}.tmp"
    try:
        draft.write_text(json.dumps(table), encoding="utf-8")
        draft.replace(folder / _FILE)
    except OSError:
        draft.unlink(missing_ok=True)


def read_standing(folder: Path) -> Standing:
    """What the server in a state folder wrote last.

    Raises:
        RunError: no server has worked there.
    """
    try:
        table = json.loads((folder / _FILE).read_text(encoding="utf-8"))
        return Standing(**table)
    except (OSError, ValueError, TypeError):
        text = f"{folder}: no server has worked here (no {_FILE})"
        raise RunError(f"{text}; --in names the server's folder (server.directory)") from None
