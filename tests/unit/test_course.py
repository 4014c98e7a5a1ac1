"""The course of rounds, played by a function: each adds one to the model."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from small_server import LAYOUT, Noted

from fedloom.core.errors import RunError
from fedloom.core.job import Job, job_from
from fedloom.core.types import Cost, Metrics, Params, Refusal, RoundReport, State
from fedloom.results.rundir import RunDirectory
from fedloom.server.course import Course, Judge, Played, begin, follow

START = Params(LAYOUT, np.zeros(4, dtype=np.float32))


class Adding:
    """Plays rounds; raises before the round `until`."""

    def __init__(self, until: int = 99) -> None:
        self.until = until
        self.asked: list[tuple[int, int, int, float]] = []
        self.judged: list[float] = []

    def play(self, index: int, state: State, *, first: int, last: int) -> Iterator[Played]:
        self.asked.append((index, first, last, float(state.params.vector[0])))
        for number in range(first, last + 1):
            if number == self.until:
                raise KeyboardInterrupt
            params = Params(LAYOUT, state.params.vector + 1)
            state = replace(state, params=params, version=state.version + 1)
            cost = Cost(bytes_up=10, bytes_down=20, joules=7.0, device_seconds=3.0)
            means, refused = {"loss": 0.5, "x": 1.0}, (Refusal("cy", "no"),)
            report = RoundReport(number, 2, refused, means, cost, slowest=2.0)
            yield Played(f"s{index}", state, report, 0.5)

    def judge(self, index: int, params: Params) -> Judge:
        def judge(model: Params) -> Metrics:
            self.judged.append(float(model.vector[0]))
            return {"value": float(model.vector[0])}

        return judge


def job_of(tmp_path: Path, **changes: object) -> Job:
    stages = [{"name": "s0", "rounds": 2}, {"name": "s1", "rounds": 3}]
    table = {"run": {"directory": str(tmp_path / "run")}, "stages": stages, **changes}
    return job_from(table)


def followed(
    job: Job, playing: Adding, *, resume: bool = False
) -> tuple[Course, RunDirectory, Noted]:
    directory, observer = RunDirectory.create(job, resume=resume), Noted()
    course = begin(directory, START, seed=job.seed)
    with suppress(KeyboardInterrupt):
        follow(job, course, playing, directory, observer)
    return course, directory, observer


def test_stages_follow_each_other_on_one_model(tmp_path: Path) -> None:
    playing = Adding()
    course, directory, observer = followed(job_of(tmp_path), playing)
    assert playing.asked == [(0, 1, 2, 0.0), (1, 3, 5, 2.0)]
    assert (course.done, course.cost.bytes_up, course.cost.bytes_down) == (5, 50, 100)
    assert (course.before, course.evaluated) == ({"value": 0.0}, {"value": 5.0})
    assert [line.round for line in observer.lines] == [0, 1, 2, 3, 4, 5]
    third = observer.lines[3]
    assert (third.stage, third.accepted, third.refused, third.loss) == ("s1", 2, 1, 0.5)
    assert (third.metrics, third.evaluation) == ({"x": 1.0}, {"value": 3.0})
    assert (third.bytes_up, third.total_bytes_up, third.total_bytes_down) == (10, 30, 60)
    assert (third.round_seconds, third.simulated_seconds) == (2.0, 6.0)
    assert (third.joules, third.total_joules, third.device_seconds) == (7.0, 21.0, 3.0)
    assert third.clients_per_second == 6.0  # three in half a second
    assert [line.round for line in directory.history()] == [0, 1, 2, 3, 4, 5]
    assert course.state.version == 3  # a new stage, a new strategy


def test_evaluations_are_made_where_they_are_due_and_of_the_last(tmp_path: Path) -> None:
    playing = Adding()
    followed(job_of(tmp_path, evaluate={"every": 2}), playing)
    assert playing.judged == [0.0, 2.0, 4.0, 5.0]


@pytest.mark.parametrize("until", [1, 2, 3, 5])
def test_a_run_that_was_cut_goes_on_to_the_same_end(tmp_path: Path, until: int) -> None:
    whole, _, _ = followed(job_of(tmp_path / "a"), Adding())
    job = job_of(tmp_path / "b")
    cut, directory, _ = followed(job, Adding(until))
    assert cut.done == until - 1
    course, directory, _ = followed(job, Adding(), resume=True)
    assert [line.round for line in directory.history()] == [0, 1, 2, 3, 4, 5]
    assert course.state.params.vector.tolist() == whole.state.params.vector.tolist()
    assert (course.state.version, course.before) == (whole.state.version, whole.before)
    assert (course.cost, course.done) == (whole.cost, 5)
    assert course.spent == whole.spent
    assert course.spent["simulated_seconds"] == 5 * 2.0


def test_a_checkpoint_of_another_seed_is_refused(tmp_path: Path) -> None:
    _, directory, _ = followed(job_of(tmp_path), Adding(3))
    with pytest.raises(RunError, match="its checkpoint is of seed 0"):
        begin(directory, START, seed=1)


class Rising(Adding):
    """Each round adds one; evaluations gain no more from the value `top` on."""

    def __init__(self, top: float, until: int = 99) -> None:
        super().__init__(until)
        self.top = top

    def judge(self, index: int, params: Params) -> Judge:
        def judge(model: Params) -> Metrics:
            self.judged.append(float(model.vector[0]))
            return {"accuracy": min(float(model.vector[0]), self.top) / 10}

        return judge


def patient(tmp_path: Path, *, every: int = 1, saved: int = 1) -> Job:
    stages = [{"name": "s0", "rounds": 50, "patience": 3}, {"name": "s1", "rounds": 2}]
    run = {"directory": str(tmp_path / "run"), "checkpoint_every": saved}
    return job_from({"run": run, "stages": stages, "evaluate": {"every": every}})


def test_a_stage_ends_when_it_gains_nothing_any_more(tmp_path: Path) -> None:
    playing = Rising(2.0)
    course, _, observer = followed(patient(tmp_path), playing)
    # The last gain is in round 2; rounds 3, 4 and 5 have none, and the next stage follows.
    assert playing.asked == [(0, 1, 50, 0.0), (1, 6, 7, 5.0)]
    assert (course.done, course.over) == (7, (5, 7))
    assert [line.rounds for line in observer.lines] == [0, 52, 52, 52, 52, 7, 7, 7]
    text = "the stage 's0' ends after 5 of 50 rounds: no gain of 0.001 in 3"
    assert observer.notes == [text]


def test_a_stage_does_not_end_unseen_between_evaluations(tmp_path: Path) -> None:
    playing = Rising(4.0)
    course, _, _ = followed(patient(tmp_path, every=10), playing)
    # Round 3 is evaluated as patience is over, and has gained; so is round 6, which gained up to
    # 4, and round 9, which did not. Then the last.
    assert playing.judged == [0.0, 3.0, 6.0, 9.0, 10.0, 11.0]
    assert course.over == (9, 11)


@pytest.mark.parametrize("until", [3, 5, 6, 7])
@pytest.mark.parametrize("saved", [1, 2])
def test_a_stage_that_ended_early_is_over_after_a_cut_too(
    tmp_path: Path, until: int, saved: int
) -> None:
    whole, _, _ = followed(patient(tmp_path / "a", saved=saved), Rising(2.0))
    job = patient(tmp_path / "b", saved=saved)
    followed(job, Rising(2.0, until))
    course, directory, _ = followed(job, Rising(2.0), resume=True)
    assert [line.round for line in directory.history()] == [0, 1, 2, 3, 4, 5, 6, 7]
    assert [line.stage for line in directory.history()] == ["s0"] * 6 + ["s1"] * 2
    assert (course.done, course.over, course.best) == (whole.done, whole.over, whole.best)
    assert course.state.params.vector.tolist() == whole.state.params.vector.tolist()


def test_the_last_stage_may_end_early_too_and_is_saved(tmp_path: Path) -> None:
    stages = [{"name": "s0", "rounds": 50, "patience": 2}]
    run = {"directory": str(tmp_path / "run"), "checkpoint_every": 100}
    course, directory, observer = followed(job_from({"run": run, "stages": stages}), Rising(1.0))
    assert (course.done, directory.last_checkpoint, observer.lines[-1].rounds) == (3, 3, 3)
