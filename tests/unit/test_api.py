import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import fedloom
from fedloom.core.job import Job
from fedloom.progress import PlainProgress, Quiet


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Job, dict[str, Any]]]:
    """What the simulator is asked to do, in place of doing it."""
    calls: list[tuple[Job, dict[str, Any]]] = []
    simulator = ModuleType("simulator")
    simulator.simulate = lambda job, **options: calls.append((job, options))  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "fedloom.simulation.simulator", simulator)
    return calls


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
