from pathlib import Path

import pytest

from fedloom import sources
from fedloom.core.errors import ConfigError
from fedloom.core.job import Job, job_from
from fedloom.core.registry import Component
from fedloom.sources import job_of, recipes


def test_nothing_is_the_default_job() -> None:
    assert job_of(None) == Job()


def test_a_table_a_job_and_a_file_say_the_same(tmp_path: Path) -> None:
    path = tmp_path / "job.toml"
    path.write_text('name = "a"\nrounds = 3\n[local]\nlr = 0.5\n')
    expected = job_from({"name": "a", "rounds": 3, "local": {"lr": 0.5}})
    assert job_of(path) == expected
    assert job_of({"name": "a", "rounds": 3, "local": {"lr": 0.5}}) == expected
    assert job_of(expected) == expected


def test_changes_win_even_over_what_each_stage_says() -> None:
    table = {"stages": [{"local": {"lr": 0.1}}, {"local": {"lr": 0.2, "epochs": 3}}]}
    job = job_of(table, {"local.lr": 0.5, "strategy": "fedadam"})
    assert [stage.local.lr for stage in job.stages] == [0.5, 0.5]
    assert job.stages[1].local.epochs == 3
    assert job.stages[0].strategy == Component("fedadam")


def test_changes_of_a_job_leave_the_rest() -> None:
    job = job_of(job_from({"seed": 5, "rounds": 7}), {"local": {"epochs": 2}})
    assert (job.seed, job.rounds, job.stages[0].local.epochs) == (5, 7, 2)


def test_python_values_may_stand_for_tables() -> None:
    job = job_of(None, {"adapter": Component("lora", {"rank": 4}), "train": ("head",)})
    assert job.adapter == Component("lora", {"rank": 4})
    assert job.stages[0].train == ("head",)


def test_data_is_found_from_the_file_that_names_it_or_from_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "jobs").mkdir()
    path = tmp_path / "jobs" / "job.toml"
    path.write_text('data.path = "a.csv"\n')
    monkeypatch.chdir(tmp_path)
    assert job_of(path).data.path == str(tmp_path / "jobs" / "a.csv")
    assert job_of(path, {"data.path": "b.csv"}).data.path == str(tmp_path / "b.csv")
    assert job_of({"data": {"path": "c.csv"}}).data.path == str(tmp_path / "c.csv")


def test_a_bare_name_is_a_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "fedtiny.toml"
    path.write_text("rounds = 2\n")
    monkeypatch.setattr(sources, "recipes", lambda: {"fedtiny": path})
    assert job_of("fedtiny").rounds == 2
    with pytest.raises(ConfigError, match=r"fedtyni: no such file or recipe; .*'fedtiny'"):
        job_of("fedtyni")


def test_every_packaged_recipe_is_a_job() -> None:
    for path in recipes().values():
        assert job_of(path).rounds >= 1


def test_a_missing_file_says_how_to_write_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"gone\.toml: no such file; `fedloom init gone\.toml`"):
        job_of(tmp_path / "gone.toml")


def test_an_unknown_key_is_named() -> None:
    with pytest.raises(ConfigError, match=r"local\.learning_rate: unknown key"):
        job_of(None, {"local.learning_rate": 0.1})
