"""What a worker is asked to do and what it reports, with the check that it did all of it."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from baselines.work import WORKS, Work

DTYPES = ("float32", "bfloat16", "bfloat16-frozen")
"""Arithmetic: float32; autocast to bfloat16; that with the frozen weights kept in bfloat16 too."""

ATTENTIONS = ("sdpa", "eager")
"""How `transformers` computes attention: torch's fused operation (its default), or plain products.
On a CPU the fused one is the faster in float32 and by far the slower in bfloat16."""


class UnequalWorkError(RuntimeError):
    """A system did not do the work that its rate would be computed from."""


@dataclass(frozen=True)
class Job:
    """One measurement of one system."""

    work: str
    """Name of the work in `WORKS`."""

    clients: int
    """Clients of each round; all of them train in every round."""

    rounds: int
    """Rounds of federated averaging, each timed."""

    dtype: str
    """One of `DTYPES`."""

    attention: str
    """One of `ATTENTIONS`."""

    processes: int
    """Processes (or actors) that train clients."""

    threads: int
    """Threads of each of them."""

    report: str
    """File that the worker writes its report to."""

    update: str = ""
    """File for the aggregated update of the first round (.npy); empty to keep none."""

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what `to_json` wrote."""
        return cls(**json.loads(text))

    def to_json(self) -> str:
        """Write as one line, for a command line."""
        return json.dumps(asdict(self))

    @property
    def what(self) -> Work:
        """The work itself."""
        return WORKS[self.work]

    @property
    def steps(self) -> int:
        """Optimizer steps that all clients together do in all rounds."""
        return self.rounds * self.clients * self.what.steps


@dataclass(frozen=True)
class Outcome:
    """What a worker measured."""

    seconds: tuple[float, ...]
    """Wall time of each round, from the global weights to the next global weights."""

    steps: int
    """Optimizer steps counted in all processes."""

    update: NDArray[np.float32]
    """Aggregated update of the first round, global weights after minus before, `[P]`."""

    peak_rss_mib: float
    """Peak resident memory of the process that reports."""

    versions: dict[str, str]
    """Version of each library that the system is made of."""

    cpu_seconds: tuple[float, ...] = ()
    """Processor time of each round, summed over the processes; empty where it is not known."""


def check(job: Job, outcome: Outcome) -> None:
    """Refuse an outcome that is not the work of the job.

    Raises:
        UnequalWorkError: The rounds or the optimizer steps are not as many as asked for, or the
            aggregated update is zero or not finite.
    """
    if len(outcome.seconds) != job.rounds:
        raise UnequalWorkError(f"rounds: timed {len(outcome.seconds)}, expected {job.rounds}")
    if outcome.steps != job.steps:
        raise UnequalWorkError(f"optimizer steps: did {outcome.steps}, expected {job.steps}")
    norm = float(np.linalg.norm(outcome.update))
    if not np.isfinite(norm) or norm == 0.0:
        raise UnequalWorkError(f"norm of the aggregated update: {norm}, expected above 0")


def report(job: Job, outcome: Outcome) -> None:
    """Check an outcome and write it to the files that the job names.

    Raises:
        UnequalWorkError: See `check`.
    """
    check(job, outcome)
    if job.update:
        np.save(job.update, outcome.update)
    fields: dict[str, Any] = {
        "clients_per_second": round(job.clients / min(outcome.seconds), 3),
        "round_seconds": [round(seconds, 4) for seconds in outcome.seconds],
        "steps": outcome.steps,
        "update_norm": float(np.linalg.norm(outcome.update)),
        "peak_rss_mib": round(outcome.peak_rss_mib, 1),
        "versions": outcome.versions,
    }
    if outcome.cpu_seconds:
        milliseconds = 1000 * min(outcome.cpu_seconds) / job.clients
        fields["cpu_ms_per_client"] = round(milliseconds, 3)
    Path(job.report).write_text(json.dumps(fields), encoding="utf-8")
