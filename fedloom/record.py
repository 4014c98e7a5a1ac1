"""A run as its folder tells it, finished or not: what reports and plots are made from."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedloom.core.types import Metrics
from fedloom.readable import METRICS, headline
from fedloom.results.history import History
from fedloom.results.observe import RoundLine
from fedloom.results.rundir import RunDirectory

__all__ = ["Record", "StageSpan"]


@dataclass(frozen=True)
class StageSpan:
    """A stage and the rounds that it covers.

    Attributes:
        name: its name.
        first: its first round, from 1.
        last: its last round.
    """

    name: str
    first: int
    last: int


@dataclass(frozen=True)
class Record:
    """Everything that a run directory says.

    Attributes:
        path: the folder.
        config: the resolved job.
        versions: what computed it.
        history: its rounds; round 0 is the model before training, where the run wrote it.
        summary: how it ended; empty while it has not.
        partition: who holds what; empty where the run did not write it.
        clients: metrics of the last model by client; empty where it was not evaluated so.
    """

    path: Path
    config: Mapping[str, Any]
    versions: Mapping[str, str]
    history: History
    summary: Mapping[str, Any]
    partition: Mapping[str, Any]
    clients: Mapping[str, Metrics]

    @staticmethod
    def read(path: Path) -> "Record":
        """Read a run directory.

        Raises:
            RunError: there is no run, or a file of it is damaged.
        """
        run = RunDirectory(path)
        config = run.config()
        tables = (run.table(name) for name in ("versions", "summary", "partition", "clients"))
        versions, summary, partition, clients = tables
        return Record(path, config, versions, run.history(), summary, partition, clients)

    @property
    def name(self) -> str:
        """The job's name."""
        return str(self.config.get("name", self.path.name))

    @cached_property
    def stages(self) -> tuple[StageSpan, ...]:
        """The stages, in order; one that ended early has the rounds that it played."""
        stages = self.config.get("stages", ())
        played = Counter(line.stage for line in self.history if line.round)
        names = [stage["name"] for stage in stages]
        spans, last = [], 0
        for stage, next_name in zip(stages, [*names[1:], ""], strict=True):
            name, rounds = stage["name"], stage["rounds"]
            ended = played[next_name] or self.ended
            if ended and names.count(name) == 1 and played[name]:
                rounds = played[name]
            spans.append(StageSpan(name, last + 1, last + rounds))
            last += rounds
        return tuple(spans)

    @property
    def ended(self) -> bool:
        """Whether no round is left to play."""
        return bool(self.summary) and not self.summary.get("interrupted")

    @property
    def rounds(self) -> int:
        """Rounds of all stages together."""
        return self.stages[-1].last if self.stages else self.done

    @property
    def done(self) -> int:
        """Rounds that are done."""
        return self.history.last.round if self.history.last else 0

    @property
    def state(self) -> str:
        """``finished``, or how far it came."""
        if self.ended:
            return "finished"
        word = "interrupted" if self.summary else "unfinished"
        return f"{word} after round {self.done} of {self.rounds}"

    @cached_property
    def metric(self) -> str:
        """The evaluation metric that says most; empty where nothing was evaluated."""
        names = (c.removeprefix("evaluation.") for c in self.history.columns if "evaluation." in c)
        return headline([*names, *self.after])

    @property
    def before(self) -> Metrics:
        """Evaluation of the model before training."""
        first = next((line.evaluation for line in self.history if line.round == 0), {})
        return _numbers(self.summary.get("before")) or first

    @property
    def after(self) -> Metrics:
        """Evaluation of the last model; of the last evaluated one while the run goes on."""
        last = [line.evaluation for line in self.history if line.evaluation]
        return _numbers(self.summary.get("after")) or (last[-1] if last else {})

    @property
    def references(self) -> dict[str, Metrics]:
        """Evaluation of what else was trained, by ``central`` and ``local``."""
        found = self.summary.get("references") or {}
        return {name: _numbers(metrics) for name, metrics in found.items()}

    def curve(self, x: str, y: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Two columns of the history where both have values; empty where either is missing."""
        there = self.history.columns
        if x not in there or y not in there:
            return np.empty(0), np.empty(0)
        a, b = self.history[x].astype(np.float64), self.history[y].astype(np.float64)
        both = np.isfinite(a) & np.isfinite(b)
        return a[both], b[both]

    def total_bytes(self) -> NDArray[np.float64]:
        """Bytes both ways since round 1, by round ``[rounds]``."""
        up, down = self.history["total_bytes_up"], self.history["total_bytes_down"]
        return np.asarray(up + down, dtype=np.float64)

    @property
    def spent(self) -> Metrics:
        """What all rounds cost, by name; empty while the run goes on."""
        return self.summary.get("spent") or {}

    def reached(self, target: float) -> RoundLine | None:
        """The first evaluated round whose headline metric is `target` or better; None for none."""
        ascending = not self.metric or METRICS[self.metric].ascending
        for line in self.history:
            value = line.evaluation.get(self.metric, float("nan"))
            if value >= target if ascending else value <= target:
                return line
        return None

    def best(self) -> float:
        """The best value of the headline metric on the curve; NaN without one."""
        column = f"evaluation.{self.metric}"
        values = self.curve("round", column)[1]
        if not len(values):
            return float("nan")
        return float(values.max() if METRICS[self.metric].ascending else values.min())


def _numbers(metrics: Mapping[str, float | None] | None) -> dict[str, float]:
    """Metrics with null as NaN, as JSON has no other way to say it."""
    return {k: float("nan") if v is None else v for k, v in (metrics or {}).items()}
