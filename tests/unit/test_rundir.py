import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fedloom.core.errors import ConfigError, RunError
from fedloom.core.job import Job, job_from
from fedloom.results.observe import RoundLine, Summary
from fedloom.results.rundir import RunDirectory


def job(path: Path, **changes: Any) -> Job:
    run: Mapping[str, Any] = {"directory": str(path), **changes.pop("run", {})}
    return job_from({"run": run, **changes})


def started(path: Path, rounds: int = 4) -> RunDirectory:
    """A run of which so many rounds are on disk, with checkpoints after the first two."""
    run = RunDirectory.create(job(path))
    for number in range(rounds + 1):
        run.append(RoundLine(number, loss=math.nan))
    for number in (1, 2):
        run.checkpoint_path(number).write_bytes(b"state")
    return run


def finish(run: RunDirectory, *, interrupted: bool = False) -> None:
    run.write_summary(Summary({}, {}, 4, 1.0, run.path, interrupted=interrupted))


def test_a_new_run_says_what_it_is(tmp_path: Path) -> None:
    run = RunDirectory.create(job(tmp_path / "new" / "run", seed=7))
    assert run.config()["seed"] == 7
    assert "numpy" in run.table("versions")
    assert len(run.history()) == 0
    assert run.last_checkpoint == 0


def test_name_and_seed_are_filled_in(tmp_path: Path) -> None:
    run = RunDirectory.create(job(tmp_path / "{name}-{seed}", name="a", seed=3))
    assert run.path == tmp_path / "a-3"


def test_no_other_field_is_filled_in(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"run\.directory = .*only \{name\} and \{seed\}"):
        RunDirectory.create(job(tmp_path / "{date}"))


def test_rounds_are_on_disk_as_they_are_added(tmp_path: Path) -> None:
    assert [line.round for line in started(tmp_path / "r", 2).history()] == [0, 1, 2]


def test_an_unfinished_run_is_not_run_over(tmp_path: Path) -> None:
    run = started(tmp_path / "r")
    with pytest.raises(RunError, match="unfinished after 4 rounds; --resume goes on, --overwrite"):
        RunDirectory.create(job(run.path))


def test_a_finished_run_is_not_run_over(tmp_path: Path) -> None:
    run = started(tmp_path / "r")
    finish(run)
    with pytest.raises(RunError, match="finished; --overwrite runs it again"):
        RunDirectory.create(job(run.path))


def test_an_interrupted_run_counts_as_unfinished(tmp_path: Path) -> None:
    run = started(tmp_path / "r")
    finish(run, interrupted=True)
    with pytest.raises(RunError, match="--resume goes on"):
        RunDirectory.create(job(run.path))


def test_resume_goes_back_to_the_last_checkpoint(tmp_path: Path) -> None:
    run = started(tmp_path / "r")
    finish(run, interrupted=True)
    again = RunDirectory.create(job(run.path), resume=True)
    assert again.last_checkpoint == 2
    assert [line.round for line in again.history()] == [0, 1, 2]
    assert again.summary() == {}


def test_resume_without_a_checkpoint_starts_again(tmp_path: Path) -> None:
    run = RunDirectory.create(job(tmp_path / "r"))
    run.append(RoundLine(0))
    assert len(RunDirectory.create(job(run.path), resume=True).history()) == 0


def test_resume_where_nothing_is_starts_afresh(tmp_path: Path) -> None:
    assert RunDirectory.create(job(tmp_path / "r"), resume=True).last_checkpoint == 0


def test_resume_after_a_line_was_torn(tmp_path: Path) -> None:
    run = started(tmp_path / "r", 2)
    with (run.path / "metrics.jsonl").open("a") as file:
        file.write('{"round": 3, "sta')
    again = RunDirectory.create(job(run.path), resume=True)
    again.append(RoundLine(3))
    assert [line.round for line in again.history()] == [0, 1, 2, 3]


@pytest.mark.parametrize("resume", [True, False])
def test_another_job_is_refused_with_the_keys_that_differ(tmp_path: Path, resume: bool) -> None:
    run = started(tmp_path / "r")
    other = job(run.path, seed=5, local={"lr": 0.5})
    message = r"another job: seed is 0 there and 5 now, stages\[0\]\.local\.lr is 0\.1 there and 0"
    with pytest.raises(RunError, match=message):
        RunDirectory.create(other, resume=resume)


def test_another_use_of_the_machine_may_resume(tmp_path: Path) -> None:
    run = started(tmp_path / "r")
    again = RunDirectory.create(job(run.path, run={"workers": 7}), resume=True)
    assert again.config()["run"]["workers"] == 7


def test_overwrite_deletes_the_run_and_nothing_else(tmp_path: Path) -> None:
    run = started(tmp_path / "r")
    (run.path / "notes.txt").write_text("mine")
    again = RunDirectory.create(job(run.path, seed=9), overwrite=True)
    assert again.last_checkpoint == 0
    assert len(again.history()) == 0
    assert (run.path / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("overwrite", [True, False])
def test_a_folder_of_other_files_is_left_alone(tmp_path: Path, overwrite: bool) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(RunError, match="not empty and holds no run; choose another with --out"):
        RunDirectory.create(job(tmp_path), overwrite=overwrite)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_run_that_failed_before_its_first_round_is_no_hindrance(tmp_path: Path) -> None:
    RunDirectory.create(job(tmp_path / "r"))
    assert RunDirectory.create(job(tmp_path / "r", seed=8)).config()["seed"] == 8


def test_a_file_in_the_place_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"file.*: cannot be written: .*choose another folder"):
        RunDirectory.create(job(tmp_path / "file" / "run"))


def test_a_line_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    run = RunDirectory.create(job(tmp_path / "r"))
    (run.path / "metrics.jsonl").mkdir()
    with pytest.raises(RunError, match=r"metrics\.jsonl: cannot be written"):
        run.append(RoundLine(1))


def test_only_the_newest_checkpoints_are_kept(tmp_path: Path) -> None:
    run = RunDirectory.create(job(tmp_path / "r", run={"keep": 2}))
    for number in (9, 10, 11):
        run.checkpoint_path(number).write_bytes(b"state")
    run.prune()
    assert list(run.checkpoints()) == [10, 11]


def test_a_folder_without_a_run(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no run here"):
        RunDirectory(tmp_path).config()


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(RunError, match=r"config\.json: not JSON"):
        RunDirectory(tmp_path).config()


def test_a_summary_is_plain_json(tmp_path: Path) -> None:
    run = RunDirectory.create(job(tmp_path / "r"))
    summary = Summary({"loss": math.nan}, {"accuracy": 0.5}, 4, 1.5, run.path, run.adapter)
    run.write_summary(replace(summary, references={"central": {"accuracy": 0.75}}))
    table = json.loads((run.path / "summary.json").read_text())
    assert table["before"] == {"loss": None}
    assert table["references"]["central"]["accuracy"] == 0.75
    assert table["adapter"] == str(run.path / "adapter")


def test_the_partition_keeps_all_sizes_and_the_labels_of_the_largest(tmp_path: Path) -> None:
    run = RunDirectory.create(job(tmp_path / "r"))
    sizes = {f"c{i:04d}": i + 1 for i in range(3000)}
    run.write_partition(sizes, {"c2999": {"a": 3000}}, {"gini": 0.5})
    table = run.table("partition")
    assert (table["clients"], table["examples"]) == (3000, 3000 * 3001 // 2)
    assert len(table["sizes"]) == 1000
    assert (table["sizes"][0], table["sizes"][-1]) == (1, 3000)
    assert len(table["largest"]) == 200
    assert table["largest"][0] == {"client": "c2999", "examples": 3000, "labels": {"a": 3000}}


def test_each_client_is_kept(tmp_path: Path) -> None:
    run = RunDirectory.create(job(tmp_path / "r"))
    run.write_clients({"a": {"accuracy": 0.5}})
    assert run.table("clients") == {"a": {"accuracy": 0.5}}
