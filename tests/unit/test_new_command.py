import importlib.util
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from fedloom.cli import main
from fedloom.core.component import Component
from fedloom.core.errors import ConfigError
from fedloom.core.registry import create
from fedloom.new_command import write_strategy


def loaded(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    assert main(["new", "strategy", "slow-steps"]) == 0
    monkeypatch.chdir("slow-steps")
    monkeypatch.syspath_prepend(str(tmp_path / "slow-steps"))
    yield tmp_path / "slow-steps"
    sys.modules.pop("slow_steps", None)


def test_its_own_tests_pass(package: Path) -> None:
    tests = loaded(package / "test_slow_steps.py")
    tests.test_it_keeps_every_promise_of_a_strategy()
    tests.test_a_rate_of_zero_is_refused()


def test_a_job_finds_it_in_the_current_folder(package: Path) -> None:
    found = create("strategies", Component("slow_steps:SlowSteps", {"lr": 0.5}))
    assert vars(found)["lr"] == 0.5


def test_its_entry_point_names_what_is_there(package: Path) -> None:
    described = tomllib.loads((package / "pyproject.toml").read_text())
    (entry,) = described["project"]["entry-points"]["fedloom.strategies"].items()
    assert entry == ("slow-steps", "slow_steps:SlowSteps")
    module, _, name = entry[1].partition(":")
    assert described["tool"]["setuptools"]["py-modules"] == [module]
    assert hasattr(loaded(package / f"{module}.py"), name)
    assert not any("${" in path.read_text() for path in package.iterdir() if path.is_file())


@pytest.mark.parametrize("name", ["Mine", "my strategy", "9lives", "a--b", "../up", ""])
def test_a_name_that_is_none_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"name = .*lower-case letters"):
        write_strategy(name, tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("class", "no word of Python's own"),
        ("none", "no word of Python's own"),  # its class would be None
        ("numpy", "there is a module 'numpy' that it would hide"),
        ("test", "there is a module 'test'"),
        ("flwr", "there is a module 'flwr'"),
    ],
)
def test_a_name_that_python_has_is_refused(name: str, text: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"name = '{name}': .*{text}"):
        write_strategy(name, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_the_name_of_a_built_in_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="name = 'fedavg': none of the built-in"):
        write_strategy("fedavg", tmp_path / "new")


def test_an_existing_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "kept.txt").write_text("mine")
    with pytest.raises(ConfigError, match="exists; choose another --out"):
        write_strategy("mine", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["kept.txt"]
