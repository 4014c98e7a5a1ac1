"""A federation on one machine: the stages of a job, round by round, saved as they go."""

import dataclasses
import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from fedloom.core.checkpoint import load_state, save_state
from fedloom.core.errors import RunError
from fedloom.core.job import Job
from fedloom.core.types import Metrics, Params, State
from fedloom.runs.history import History
from fedloom.runs.observe import Observer, RoundLine, RunInfo, Summary
from fedloom.runs.rundir import RunDirectory
from fedloom.simulation.closing import close
from fedloom.simulation.setup import Choices, Prepared, prepare
from fedloom.simulation.skewness import write_partition
from fedloom.simulation.stage import Evaluator, Played, play

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


@dataclass
class _Course:
    """Where a run stands between two rounds.

    Attributes:
        state: the strategy's state.
        done: rounds that are done.
        elapsed: seconds that they took.
        bytes_up: bytes that clients sent in them.
        bytes_down: bytes that clients received in them.
        before: evaluation of the first model.
        evaluated: the newest evaluation.
    """

    state: State
    done: int = 0
    elapsed: float = 0.0
    bytes_up: int = 0
    bytes_down: int = 0
    before: Metrics = field(default_factory=dict)
    evaluated: Metrics = field(default_factory=dict)


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
    course = _begin(prepared, directory, start)
    write_partition(prepared, directory)
    observer.started(_info(prepared, directory, start, course.done))
    interrupted = False
    try:
        _rounds(prepared, directory, observer, course)
        closing = close(prepared, directory, observer, start=start, end=course.state.params)
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
        interrupted=interrupted,
    )
    directory.write_summary(summary)
    observer.finished(summary)
    return Run(directory.path, directory.history(), summary, course.state.params, prepared)


def _begin(prepared: Prepared, directory: RunDirectory, start: Params) -> _Course:
    """The course from the last checkpoint, or from the beginning."""
    done = directory.last_checkpoint
    if not done:
        return _Course(State(start))
    state, facts = load_state(directory.checkpoints()[done], start.layout)
    record = json.loads(str(facts["course"]))
    if record["seed"] != prepared.job.seed:
        raise RunError(f"{directory.path}: its checkpoint is of seed {record['seed']}")
    return _Course(
        state,
        done,
        record["elapsed"],
        record["bytes_up"],
        record["bytes_down"],
        record["before"],
        record["evaluated"],
    )


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
        trainable=start.layout.size,
        backbone=job.backbone.name,
        resumed_from=done,
    )


def _rounds(
    prepared: Prepared, directory: RunDirectory, observer: Observer, course: _Course
) -> None:
    """Play what is left of every stage."""
    last = 0
    for index, stage in enumerate(prepared.job.stages):
        first, last = last + 1, last + stage.rounds
        if course.done >= last:
            continue
        if course.done < first:
            course.state = State(course.state.params)  # a new stage, a new strategy
        params = course.state.params
        judge = Evaluator(prepared, params, stage.train, prepared.curve)
        if course.done == 0 and index == 0:
            course.before = course.evaluated = judge(params).metrics
            opening = RoundLine(0, stage=stage.name, evaluation=course.before)
            directory.append(opening)
            observer.round_done(opening)
        begin = max(first, course.done + 1)
        for done in play(prepared, index, course.state, first=begin, last=last):
            _after(prepared, directory, observer, course, done, judge)


def _after(
    prepared: Prepared,
    directory: RunDirectory,
    observer: Observer,
    course: _Course,
    played: Played,
    judge: Evaluator,
) -> None:
    """Evaluate where it is due, write the line, save the state, tell the observer."""
    began = time.perf_counter()
    job, number = prepared.job, played.report.round
    due = number % job.evaluate.every == 0 or number == job.rounds
    evaluation = judge(played.state.params).metrics if due else {}
    seconds = played.seconds + time.perf_counter() - began
    report, cost = played.report, played.report.cost
    line = RoundLine(
        round=number,
        stage=played.stage,
        accepted=report.accepted,
        refused=len(report.refused),
        loss=report.metrics.get("loss", float("nan")),
        metrics={k: v for k, v in report.metrics.items() if k != "loss"},
        evaluation=evaluation,
        bytes_up=cost.bytes_up,
        bytes_down=cost.bytes_down,
        total_bytes_up=course.bytes_up + cost.bytes_up,
        total_bytes_down=course.bytes_down + cost.bytes_down,
        seconds=seconds,
        elapsed=course.elapsed + seconds,
        clients_per_second=(report.accepted + len(report.refused)) / max(played.seconds, 1e-9),
        refusals=report.refused,
    )
    course.state, course.done = played.state, number
    course.elapsed, course.evaluated = line.elapsed, evaluation or course.evaluated
    course.bytes_up, course.bytes_down = line.total_bytes_up, line.total_bytes_down
    directory.append(line)
    if number % job.run.checkpoint_every == 0 or number == job.rounds:
        _save(directory, course, job.seed)
    observer.round_done(line)


def _save(directory: RunDirectory, course: _Course, seed: int) -> None:
    record: dict[str, Any] = {
        "seed": seed,
        "elapsed": course.elapsed,
        "bytes_up": course.bytes_up,
        "bytes_down": course.bytes_down,
        "before": dict(course.before),
        "evaluated": dict(course.evaluated),
    }
    save_state(directory.checkpoint_path(course.done), course.state, {"course": json.dumps(record)})
    directory.prune()
