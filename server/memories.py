"""What a stage's strategy remembers of each client, beside the checkpoints of the run."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

from fedloom.core.client_vectors import ClientVectors
from fedloom.core.job import Job
from fedloom.core.layout import Layout
from fedloom.core.types import State
from fedloom.results.rundir import RunDirectory
from fedloom.strategies.base import Remembering, Strategy
from fedloom.strategies.remembering import Memory, layout_of

__all__ = ["facts_of", "memory_of"]


def facts_of(job: Job, layout: Layout) -> dict[str, str | int]:
    """Whose vectors a file of clients has: what it is held to when a run goes on."""
    return {"backbone": job.backbone.name, "seed": job.seed, "layout": layout.digest}


@contextmanager
def memory_of(
    strategy: Strategy, job: Job, index: int, state: State, *, done: int
) -> Iterator[Memory | None]:
    """The memory of a stage's strategy, in the run's folder; None where it remembers nothing.

    Args:
        strategy: whose it is.
        job: the job.
        index: which of its stages.
        state: where the stage stands; one that has had no round begins with no records.
        done: rounds of the run that are done.

    Raises:
        RunError: the file cannot be used, is of another run, or lacks rounds that are done.
    """
    model, stage = state.params.layout, job.stages[index]
    layout = layout_of(strategy, stage.selectors.sent(model))
    if not layout.specs:
        yield None
        return
    directory = RunDirectory.of(job)
    path = directory.path / "remembered" / f"stage-{index}.sqlite"
    run = {**facts_of(job, model), "strategy": stage.strategy.name}
    fresh, checkpoints = not state.version, directory.checkpoints
    records = ClientVectors(path, layout, run, done=done, fresh=fresh, checkpoints=checkpoints)
    try:
        yield Memory(cast(Remembering, strategy), layout, records)
    finally:
        records.close()
