import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import fedloom
from fedloom import api
from fedloom.api import job_of, recipes
from fedloom.core.errors import ConfigError
from fedloom.core.job import Job, job_from
from fedloom.core.registry import Component
from fedloom.progress import PlainProgress, Quiet


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Job, dict[str, Any]]]:
    """What the simulator is asked to do, in place of doing it."""
    calls: list[tuple[Job, dict[str, Any]]] = []
    simulator = ModuleType("simulator")
    simulator.simulate = lambda job, **options: calls.append((job, options))  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "fedloom.simulation.simulator", simulator)
    return calls


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
    monkeypatch.setattr(api, "recipes", lambda: {"fedtiny": path})
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


def test_simulate_passes_everything_on(
    asked: list[tuple[Job, dict[str, Any]]], tmp_path: Path
) -> None:
    quiet = Quiet()
    fedloom.simulate(
        {"seed": 1},
        data=tmp_path / "a.csv",
        settings={"local.lr": 0.5},
        observer=quiet,
        resume=True,
        rounds=3,
    )
    ((job, options),) = asked
    assert (job.seed, job.rounds, job.stages[0].local.lr) == (1, 3, 0.5)
    assert job.data.path == str(tmp_path / "a.csv")
    assert options == {"observer": quiet, "resume": True, "overwrite": False, "data": None}


def test_rows_are_passed_as_they_are(asked: list[tuple[Job, dict[str, Any]]]) -> None:
    rows = [{"text": "a", "label": "b"}]
    fedloom.simulate(data=rows)
    ((job, options),) = asked
    assert job == Job()
    assert options["data"] is rows
    assert isinstance(options["observer"], PlainProgress)  # tests have no terminal


def test_importing_fedloom_loads_no_torch() -> None:
    code = "import sys, fedloom; fedloom.__version__; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_package_has_what_it_says() -> None:
    assert dir(fedloom) == ["__version__", "serve", "simulate", "sweep"]
    assert all(hasattr(fedloom, name) for name in fedloom.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'simulat'"):
        fedloom.simulat  # noqa: B018
