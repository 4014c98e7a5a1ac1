"""The course of a job: its stages and rounds, evaluated, written down and saved as they go.

The same for a simulation and a live federation; they differ in how a round is played.
"""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, astuple, dataclass, field, replace
from typing import Any, Protocol, cast

from fedloom.core.checkpoint import load_state, save_state
from fedloom.core.errors import RunError
from fedloom.core.job import Job
from fedloom.core.registry import create
from fedloom.core.types import Cost, Metrics, Params, RoundReport, State
from fedloom.results.observe import Observer, RoundLine
from fedloom.results.rundir import RunDirectory
from fedloom.results.spending import spending
from fedloom.server.failpoints import reach
from fedloom.server.gains import Best
from fedloom.strategies.base import Strategy
from fedloom.strategies.contract import first_state

__all__ = ["Course", "Judge", "Played", "Playing", "begin", "drawn_for", "follow"]

Judge = Callable[[Params], Metrics]
"""Evaluates one global model."""


@dataclass(frozen=True)
class Played:
    """One round of a stage, done.

    Attributes:
        stage: name of the stage.
        state: the state after it.
        report: what happened in it.
        seconds: wall seconds of training and aggregation.
    """

    stage: str
    state: State
    report: RoundReport
    seconds: float


class Playing(Protocol):
    """How rounds are played and models evaluated."""

    def play(self, index: int, state: State, *, first: int, last: int) -> Iterator[Played]:
        """Rounds `first` to `last` (numbers of the whole run) of the stage `index`, from `state`.

        The next round begins only when the iterator is asked for it.
        """
        ...

    def judge(self, index: int, params: Params) -> Judge:
        """Evaluates the models that the stage `index` leads to from `params`."""
        ...


@dataclass
class Course:
    """Where a run stands between two rounds.

    Attributes:
        state: the strategy's state.
        done: rounds that are done.
        elapsed: seconds that they took.
        cost: of all their updates.
        simulated_seconds: how long they took the devices.
        before: evaluation of the first model.
        evaluated: the newest evaluation.
        over: of each stage that is over, the round after which it was.
        best: the best evaluation of the stage.
    """

    state: State
    done: int = 0
    elapsed: float = 0.0
    cost: Cost = Cost()
    simulated_seconds: float = 0.0
    before: Metrics = field(default_factory=dict)
    evaluated: Metrics = field(default_factory=dict)
    over: tuple[int, ...] = ()
    best: Best = Best()

    @property
    def spent(self) -> Metrics:
        """What the rounds so far cost, by name."""
        return spending(self.cost, self.simulated_seconds)


def begin(directory: RunDirectory, start: Params, *, seed: int) -> Course:
    """The course from the last checkpoint, or from the beginning.

    Raises:
        RunError: the checkpoint is damaged, or of another run.
    """
    done = directory.last_checkpoint
    if not done:
        return Course(State(start))
    state, facts = load_state(directory.checkpoints()[done], start.layout)
    record = json.loads(str(facts["course"]))
    if record["seed"] != seed:
        raise RunError(f"{directory.path}: its checkpoint is of seed {record['seed']}")
    return Course(
        state,
        done,
        record["elapsed"],
        Cost(**record["cost"]),
        record["simulated_seconds"],
        record["before"],
        record["evaluated"],
        tuple(record["over"]),
        Best(*record["best"]),
    )


def follow(
    job: Job, course: Course, playing: Playing, directory: RunDirectory, observer: Observer
) -> None:
    """Play what is left of every stage; `course` is where it stands whenever this is interrupted.

    After each round its line, then its state, is safe on the disk before the next one begins.

    Raises:
        RunError: something cannot be written; all before it is.
    """
    following = _Following(job, course, playing, directory, observer)
    for index in range(len(course.over), len(job.stages)):
        following.stage(index)


def drawn_for(state: State, number: int) -> int:
    """The number of the round whose cohort is asked in round `number`: mostly its own.

    A strategy that wants more from the same clients notes that round as ``cohort``.
    """
    return int(state.notes.get("cohort", 0)) or number


@dataclass(frozen=True, eq=False)
class _Following:
    """What following a job takes."""

    job: Job
    course: Course
    playing: Playing
    directory: RunDirectory
    observer: Observer

    def stage(self, index: int) -> None:
        """Play what is left of a stage; rounds that it gives up are played by none."""
        course, stage = self.course, self.job.stages[index]
        before = course.over[-1] if course.over else 0
        last = before + stage.rounds
        if course.done == before or not self._over(index, last):
            judge = self._begun(index, new=course.done == before)
            for done in self.playing.play(index, course.state, first=course.done + 1, last=last):
                self._after(index, last, done, judge)
                if self._over(index, last):
                    break
        if course.done < last:
            text = f"no gain of {stage.min_gain:g} in {stage.patience}"
            played = f"{course.done - before} of {stage.rounds} rounds"
            self.observer.note(f"the stage {stage.name!r} ends after {played}: {text}")
        course.over = (*course.over, course.done)

    def _over(self, index: int, last: int) -> bool:
        course = self.course
        return course.done == last or course.best.waited(course.done, self.job.stages[index])

    def _begun(self, index: int, *, new: bool) -> Judge:
        """The judge of a stage, which is set up where it is a new one."""
        course = self.course
        if new:
            strategy = cast(Strategy, create("strategies", self.job.stages[index].strategy))
            course.state = first_state(strategy, course.state.params)
        params = course.state.params
        judge = self.playing.judge(index, params)
        if course.done == 0 and index == 0:
            course.before = course.evaluated = judge(params)
            opening = RoundLine(0, stage=self.job.stages[0].name, evaluation=course.before)
            self.directory.append(opening)
            reach("opening-written")
            self.observer.round_done(opening)
        if new:
            course.best = Best.of(course.evaluated, course.done)
        return judge

    def _after(self, index: int, last: int, played: Played, judge: Judge) -> None:
        """Evaluate where it is due, write the line, save the state, tell the observer."""
        job, course, stage = self.job, self.course, self.job.stages[index]
        began = time.perf_counter()
        number = played.report.round
        later = sum(stage.rounds for stage in job.stages[index + 1 :])
        final = number == last and not later
        due = number % job.evaluate.every == 0 or final or course.best.waited(number, stage)
        evaluation = judge(played.state.params) if due else {}
        seconds = played.seconds + time.perf_counter() - began
        reach("round-judged")
        total = course.cost + played.report.cost
        line = _line(course, played, evaluation, seconds, total)
        course.state, course.done = played.state, number
        course.elapsed, course.evaluated = line.elapsed, evaluation or course.evaluated
        course.cost, course.simulated_seconds = total, line.simulated_seconds
        course.best = course.best.after(evaluation, number, stage)
        over = self._over(index, last)
        line = replace(line, rounds=(number if over else last) + later)
        self.directory.append(line)
        reach("line-written")
        if number % job.run.checkpoint_every == 0 or (over and not later):
            _save(self.directory, course, job.seed)
        self.observer.round_done(line)


def _line(
    course: Course, played: Played, evaluation: Metrics, seconds: float, total: Cost
) -> RoundLine:
    report, cost = played.report, played.report.cost
    return RoundLine(
        round=report.round,
        stage=played.stage,
        accepted=report.accepted,
        refused=len(report.refused),
        loss=report.metrics.get("loss", float("nan")),
        metrics={k: v for k, v in report.metrics.items() if k != "loss"},
        evaluation=evaluation,
        bytes_up=cost.bytes_up,
        bytes_down=cost.bytes_down,
        total_bytes_up=total.bytes_up,
        total_bytes_down=total.bytes_down,
        seconds=seconds,
        elapsed=course.elapsed + seconds,
        round_seconds=report.slowest,
        simulated_seconds=course.simulated_seconds + report.slowest,
        device_seconds=cost.device_seconds,
        network_seconds=cost.network_seconds,
        joules=cost.joules,
        total_joules=total.joules,
        flops=cost.flops,
        tokens=cost.tokens,
        peak_memory=cost.peak_memory,
        clients_per_second=(report.accepted + len(report.refused)) / max(played.seconds, 1e-9),
        refusals=report.refused,
    )


def _save(directory: RunDirectory, course: Course, seed: int) -> None:
    record: dict[str, Any] = {
        "seed": seed,
        "elapsed": course.elapsed,
        "cost": asdict(course.cost),
        "simulated_seconds": course.simulated_seconds,
        "before": dict(course.before),
        "evaluated": dict(course.evaluated),
        "over": course.over,
        "best": astuple(course.best),
    }
    save_state(directory.checkpoint_path(course.done), course.state, {"course": json.dumps(record)})
    reach("state-saved")
    directory.prune()
    reach("checkpoints-pruned")
