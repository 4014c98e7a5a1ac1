"""What is remembered of each client in a stage, beside the checkpoints of the run."""

from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from typing import cast

from fedloom.core.client_vectors import ClientVectors
from fedloom.core.job import Job
from fedloom.core.layout import Layout
from fedloom.core.types import State
from fedloom.results.rundir import RunDirectory
from fedloom.server.pruned_ranks import RECORD, PrunedRanks
from fedloom.server.remembered import Remembered
from fedloom.strategies.base import Remembering, Strategy
from fedloom.strategies.remembering import Memory, layout_of

__all__ = ["facts_of", "remembered"]


def facts_of(job: Job, layout: Layout) -> dict[str, str | int]:
    """Whose vectors a file of clients has: what it is held to when a run goes on."""
    return {"backbone": job.backbone.name, "seed": job.seed, "layout": layout.digest}


@contextmanager
def remembered(
    strategy: Strategy, job: Job, index: int, state: State, *, done: int, prunes: bool = False
) -> Iterator[Remembered]:
    """What is remembered of each client in a stage, in the run's folder.

    Args:
        strategy: the stage's.
        job: the job.
        index: which of its stages.
        state: where the stage stands; one that has had no round begins with no records.
        done: rounds of the run that are done.
        prunes: whether clients may give up some of their rank for good.

    Raises:
        RunError: a file cannot be used, is of another run, or lacks rounds that are done.
    """
    model, stage = state.params.layout, job.stages[index]
    layout = layout_of(strategy, stage.selectors.sent(model))
    directory, fresh = RunDirectory.of(job), not state.version
    run = {**facts_of(job, model), "strategy": stage.strategy.name}
    memory, pruned = None, None

    with ExitStack() as files:

        def records(name: str, record: Layout) -> ClientVectors:
            path, rounds = directory.path / "remembered" / name, directory.checkpoints
            made = ClientVectors(path, record, run, done=done, fresh=fresh, checkpoints=rounds)
            return files.enter_context(closing(made))

        if layout.specs:
            own = records(f"stage-{index}.sqlite", layout)
            memory = Memory(cast(Remembering, strategy), layout, own)
        if prunes:
            pruned = PrunedRanks(records(f"ranks-{index}.sqlite", RECORD))
        yield Remembered(memory, pruned)
