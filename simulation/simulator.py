"""A federation on one machine: the stages of a job, round by round, saved as they go."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import torch

from fedloom.core.interrupt import Interrupt
from fedloom.core.job import Job
from fedloom.core.job_devices import outgrown
from fedloom.core.layout import ALL
from fedloom.core.types import Params
from fedloom.results.history import History
from fedloom.results.observe import Observer, RunInfo, Summary
from fedloom.results.rundir import RunDirectory
from fedloom.server.course import begin, follow
from fedloom.server.memories import facts_of
from fedloom.simulation.closing import Models, close
from fedloom.simulation.personal import kept_by_clients
from fedloom.simulation.rehearsal import rehearse
from fedloom.simulation.setup import Choices, Prepared, prepare
from fedloom.simulation.skewness import write_partition
from fedloom.simulation.stage import Stages
from fedloom.tuning.own import held_tensors

__all__ = ["Run", "simulate"]


@dataclass(frozen=True, eq=False)
class Run:
    """A run that has ended, or was interrupted.

    Attributes:
        directory: where its files are.
        history: the rounds, like a data frame.
        summary: how it ended.
        params: the global model.
        prepared: the job with its model, data and clients.
    """

    directory: Path
    history: History
    summary: Summary
    params: Params
    prepared: Prepared


def simulate(
    job: Job,
    *,
    observer: Observer,
    resume: bool = False,
    overwrite: bool = False,
    data: object = None,
) -> Run:
    """Run a job on this machine.

    Args:
        job: the job.
        observer: told of every round.
        resume: go on from the last checkpoint of the same job, where there is one.
        overwrite: delete an earlier run in the folder first.
        data: rows in memory (see `corpus_from_rows`), instead of ``job.data.path``.

    Returns:
        The run; ``summary.interrupted`` says whether Ctrl-C ended it early. Everything up to the
        last finished round is saved then, and `resume` ends in the same bits.

    Raises:
        FedloomError: something in the job cannot be done; nothing already written is damaged.
    """
    found = RunDirectory.check(job, resume=resume, overwrite=overwrite)
    going_on = bool(found.last_checkpoint) and not overwrite
    choices = found.table("choices") if going_on else {}
    earlier = Choices(**choices) if choices else None
    prepared = prepare(job, observer, found.path / "cache", data=data, earlier=earlier)
    rehearse(prepared)
    # Only now: a job that cannot run must not have deleted the run before it.
    directory = RunDirectory.create(job, resume=resume, overwrite=overwrite)
    directory.write_choices(dataclasses.asdict(prepared.choices))
    threads = torch.get_num_threads()
    try:
        if prepared.device.type == "cpu":
            # One thread per worker: rows then have the same bits whoever else is in the chunk.
            torch.set_num_threads(1)
        return _run(prepared, directory, observer)
    finally:
        torch.set_num_threads(threads)


def _run(prepared: Prepared, directory: RunDirectory, observer: Observer) -> Run:
    job = prepared.job
    start = prepared.model.initial(job.seed)
    course = begin(directory, start, seed=job.seed)
    write_partition(prepared, directory)
    observer.started(_info(prepared, directory, start, course.done))
    interrupted = False
    try:
        held, run = held_tensors(job, start.layout), facts_of(job, start.layout)
        keeping = kept_by_clients(directory, held, run, done=course.done)
        with Interrupt() as interrupt, keeping as personal:
            stages = Stages(prepared, personal, interrupt)
            follow(job, course, stages, directory, observer)
            interrupt.check()
            if text := outgrown(job, course.cost.peak_memory):
                observer.note(text)
            models = Models(start, course.state.params, personal)
            closing = close(prepared, directory, observer, models)
    except KeyboardInterrupt:
        interrupted, closing = True, None
    summary = Summary(
        before=course.before,
        after=closing.test if closing else course.evaluated,
        rounds=course.done,
        elapsed=course.elapsed,
        directory=directory.path,
        adapter=closing.adapter if closing else None,
        references=closing.references if closing else {},
        per_client=closing.per_client if closing else {},
        spent=course.spent,
        own_examples=closing.own_examples if closing else {},
        interrupted=interrupted,
    )
    directory.write_summary(summary)
    observer.finished(summary)
    return Run(directory.path, directory.history(), summary, course.state.params, prepared)


def _info(prepared: Prepared, directory: RunDirectory, start: Params, done: int) -> RunInfo:
    job = prepared.job
    return RunInfo(
        name=job.name,
        directory=directory.path,
        rounds=job.rounds,
        stages=tuple(stage.name for stage in job.stages),
        clients=len(prepared.population),
        examples=len(prepared.corpus.train),
        classes=len(prepared.corpus.classes),
        trainable=start.layout.select(ALL).size,
        backbone=job.backbone.name,
        resumed_from=done,
    )
