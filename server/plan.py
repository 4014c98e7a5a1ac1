"""What the server must know of a job. Nothing here, nor in what uses it, needs the model itself."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from fedloom.core.cuts import CutTable
from fedloom.core.job import Job
from fedloom.core.types import Metrics, Params
from fedloom.server.course import Judge

if TYPE_CHECKING:
    from fedloom.server.split_plan import SplitPlan

__all__ = ["Finished", "Finishing", "Judging", "Plan"]

Judging: TypeAlias = Callable[[int, Params], Judge]
Finishing: TypeAlias = Callable[[Params, Path], "Finished"]


@dataclass(frozen=True)
class Finished:
    """What there is to say of the last model.

    Attributes:
        test: its evaluation on the test split; empty where the server has no data.
        references: evaluation of what else comes of it, as in
            `fedloom.results.observe.Summary`.
    """

    test: Metrics = field(default_factory=dict)
    references: Mapping[str, Metrics] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Plan:
    """A job, ready to be served.

    Attributes:
        job: the job.
        start: the model before the first round.
        classes: names of the classes; empty for a language model.
        files: the backbone's files by name, which devices fetch once.
        judging: gives the server-side judge of a stage; None where the server has no data.
        finishing: saves the adapter of the last model in a folder, and evaluates it on the test
            split; None where nothing is to be done.
        cuts: what clients of a split model can hold; None where they all take the same.
        split: how clients share the model with this server; None where they hold all of it.
        prunes: whether clients may give up some of their rank for good.
    """

    job: Job
    start: Params
    classes: tuple[str, ...] = ()
    files: Mapping[str, Path] = field(default_factory=dict)
    judging: Judging | None = None
    finishing: Finishing | None = None
    cuts: CutTable | None = None
    split: "SplitPlan | None" = None
    prunes: bool = False
