"""Wheels of torch that a processor cannot run, faked: a package that ends its process."""

import os
import platform
from pathlib import Path

import pytest

from fedloom.cli import main
from fedloom.client.wheels import require_torch, trial
from fedloom.core.errors import RunError

DIES = "import os, signal\nos.kill(os.getpid(), signal.SIGILL)\n"
LACKS = 'raise ImportError("libcublasLt.so.13: cannot open shared object file")\n'


def fake(folder: Path, version: str, code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Install a torch in a folder that comes first, on a Raspberry Pi."""
    (folder / "torch").mkdir()
    (folder / "torch" / "__init__.py").write_text(code)
    about = folder / f"torch-{version}.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: torch\nVersion: {version}\n")
    path = os.pathsep.join(part for part in (str(folder), os.environ.get("PYTHONPATH", "")) if part)
    monkeypatch.setenv("PYTHONPATH", path)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")


@pytest.mark.parametrize(
    ("version", "code", "why"),
    [
        ("2.10.0", DIES, "illegal instruction"),
        ("2.13.0", LACKS, "ImportError: libcublasLt.so.13: cannot open shared object file"),
    ],
)
@pytest.mark.parametrize("asked", [["--check"], ["--data", "own.csv"]])
def test_one_line_names_the_wheel_that_can(
    version: str,
    code: str,
    why: str,
    asked: list[str],
    *,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    fake(tmp_path, version, code, monkeypatch)
    assert main(["client", *asked]) == 2
    assert capsys.readouterr().err == (
        f"fedloom: error: torch {version} cannot run on this processor ({why}); "
        "2.9.1 can: pip install torch==2.9.1\n"
    )


@pytest.mark.parametrize("version", ["2.9.1", "2.6.0", "2.9.1+cpu", "2.9.0a0"])
def test_wheels_that_run_on_all_are_not_tried(
    version: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake(tmp_path, version, DIES, monkeypatch)
    require_torch(lambda: "tried")


def test_a_newer_one_that_loads_is_good(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake(tmp_path, "2.12.0+cpu", "", monkeypatch)
    require_torch()
    with pytest.raises(RunError, match=r"torch 2.12.0\+cpu cannot run .*\(tried\)"):
        require_torch(lambda: "tried")


def test_other_processors_are_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    require_torch(lambda: "tried")


def test_how_a_trial_ends() -> None:
    assert trial("") == ""
    assert trial("raise SystemExit(3)") == "exit status 3"
