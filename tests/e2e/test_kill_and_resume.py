"""A run that is killed, or interrupted from the keyboard, goes on as if nothing had happened."""

import json
import signal
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from command_forks import start
from small_jobs import (
    PAUSING_LEARNER,
    classify_table,
    fedloom,
    labelled_rows,
    numbers_of,
    tensors_of,
    write_rows,
    write_toml,
)

from fedloom import simulate
from fedloom.progress import Quiet


@pytest.fixture
def job(text_model: dict[str, Path], tmp_path: Path) -> Path:
    """A folder with a job whose learner can be made to wait."""
    write_rows(tmp_path / "rows.jsonl", labelled_rows())
    (tmp_path / "pausing.py").write_text(PAUSING_LEARNER)
    table = classify_table(text_model["classify"], "rows.jsonl", learner="pausing:Pausing")
    table["run"] |= {"checkpoint_every": 2, "workers": 2}
    write_toml(tmp_path / "job.toml", table)
    return tmp_path


@pytest.fixture
def whole(job: Path) -> Path:
    """The same job without a break."""
    folder = job / "whole"
    settings = {"learner": "backprop", "run.directory": folder}
    simulate(job / "job.toml", settings=settings, observer=Quiet())
    return folder


def stop_in_round(number: int, job: Path, how: signal.Signals) -> tuple[int, str]:
    """Start or resume the run and end it by a signal in the middle of a round.

    Returns:
        The exit code, and what it said on stderr.
    """
    (job / "pause").write_text(str(number))
    process = start(["simulate", "job.toml", "--out", "torn", "--json", "--resume"], job)
    assert process.stdout is not None
    for text in process.stdout:
        if json.loads(text).get("round") == number - 1:
            break
    process.send_signal(how)
    (job / "pause").rename(job / "went-on")
    _, said = process.communicate(timeout=60)
    return process.wait(), said


def test_a_run_killed_twice_ends_in_the_same_bits(job: Path, whole: Path) -> None:
    assert stop_in_round(2, job, signal.SIGKILL)[0] == -signal.SIGKILL
    assert stop_in_round(6, job, signal.SIGKILL)[0] == -signal.SIGKILL
    assert not (job / "torn" / "adapter").exists()

    ended = fedloom("simulate", "job.toml", "--out", "torn", "--resume", "--quiet", cwd=job)

    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
    assert numbers_of(job / "torn") == numbers_of(whole)
    assert tensors_of(job / "torn") == tensors_of(whole)


def test_control_c_exits_with_130_and_the_run_goes_on(job: Path, whole: Path) -> None:
    code, said = stop_in_round(4, job, signal.SIGINT)
    # Python says it of an interrupt that comes within a destructor, which is raised again later.
    assert not said or "Exception ignored" in said
    assert code == 130
    assert json.loads((job / "torn" / "summary.json").read_text())["interrupted"]
    assert numbers_of(job / "torn")[-1]["round"] == 3

    ended = fedloom("simulate", "job.toml", "--out", "torn", "--resume", "--quiet", cwd=job)

    assert (ended.returncode, ended.stderr) == (0, "")
    assert numbers_of(job / "torn") == numbers_of(whole)
    assert tensors_of(job / "torn") == tensors_of(whole)


def test_what_clients_keep_is_the_same_bits_after_kills(
    text_model: dict[str, Path], job: Path
) -> None:
    # Ten of twelve clients in each round; a checkpoint after every second round.
    table = classify_table(text_model["classify"], "rows.jsonl", learner="pausing:Pausing")
    table["run"] |= {"checkpoint_every": 2, "workers": 2}
    own = {"rounds": 6, "clients_per_round": 10, "keep": ["head"]}
    table["stages"] = [{**own, "local": {"lr": 0.1, "batch_size": 8}}]
    write_toml(job / "job.toml", table)
    settings = {"learner": "backprop", "run.directory": job / "whole"}
    simulate(job / "job.toml", settings=settings, observer=Quiet())

    for number in (2, 4, 6):
        assert stop_in_round(number, job, signal.SIGKILL)[0] == -signal.SIGKILL
    ended = fedloom("simulate", "job.toml", "--out", "torn", "--resume", "--quiet", cwd=job)

    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
    assert numbers_of(job / "torn") == numbers_of(job / "whole")
    assert tensors_of(job / "torn") == tensors_of(job / "whole")
    assert kept_in(job / "torn") == kept_in(job / "whole")
    assert len(kept_in(job / "whole")) == 12


def kept_in(run: Path) -> dict[str, tuple[int, bytes]]:
    """What each client keeps at the end of a run, and of which round it is."""
    newest = "SELECT client, max(round), tensors FROM kept GROUP BY client"
    with closing(sqlite3.connect(run / "personal" / "kept.sqlite")) as file:
        return {client: (number, tensors) for client, number, tensors in file.execute(newest)}
