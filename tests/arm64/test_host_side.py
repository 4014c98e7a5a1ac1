"""The emulation's side of this machine: which wheels it takes, what it lacks, what it starts."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from emulated import command, environment
from make_root import Step, default_folder, do, lacking
from small_jobs import ROOT
from wheels import CLIENT, WITH_PIP, pins, wanted

GENERAL, ARM = ROOT / "constraints.txt", ROOT / "constraints-arm64.txt"


def test_a_board_differs_in_what_computes() -> None:
    own = {"onnxruntime": "1.22.1", "torch": "2.9.1"}
    assert pins(ARM) == own
    assert pins(GENERAL, ARM) == {**pins(GENERAL), **own}
    assert pins(GENERAL)["pyyaml"] == "6.0.3"  # as names are compared


def test_all_but_the_builder_is_pinned() -> None:
    assert "torch==2.9.1" in wanted(CLIENT)
    assert [text for text in wanted((*CLIENT, *WITH_PIP)) if "==" not in text] == ["setuptools"]


def test_what_is_lacking() -> None:
    assert list(lacking(lambda tool: tool, 0)) == []
    assert list(lacking(lambda tool: None, 1000)) == [
        "it changes roots and mounts folders: run it as root",
        "apt-get install debootstrap qemu-user-static",
    ]


def test_what_is_made_is_kept(tmp_path: Path) -> None:
    made: list[Sequence[str]] = []
    step = Step("one", ("a", "b"), lambda folder, what: made.append(what))
    assert do(step, "1 of 1", tmp_path, again=False)
    assert not do(step, "1 of 1", tmp_path, again=False)
    assert do(step, "1 of 1", tmp_path, again=True)
    assert do(replace(step, what=("c",)), "1 of 1", tmp_path, again=False)
    assert made == [("a", "b"), ("a", "b"), ("c",)]


def fail(folder: Path, what: Sequence[str]) -> None:
    raise KeyboardInterrupt


def test_what_was_interrupted_is_made_again(tmp_path: Path) -> None:
    step = Step("one", ("a",), lambda folder, what: None)
    do(step, "1 of 1", tmp_path, again=False)
    with pytest.raises(KeyboardInterrupt):
        do(replace(step, make=fail), "1 of 1", tmp_path, again=True)
    assert do(step, "1 of 1", tmp_path, again=False)


def test_the_folder_is_the_users_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDLOOM_ARM64", "/srv/arm64")
    assert default_folder() == Path("/srv/arm64")
    monkeypatch.delenv("FEDLOOM_ARM64")
    monkeypatch.setenv("HOME", "/home/me")
    assert default_folder() == Path("/home/me/.cache/fedloom/arm64")


def test_what_is_mounted_and_run() -> None:
    words = command(Path("/r"), ["python3", "-V"], {"/mnt/program": Path("/here")})
    assert words[:2] == ["unshare", "--mount"]
    places = words[words.index("/r") + 1 :]
    assert places == [
        *("/proc", "/proc", "/sys", "/sys", "/here", "/mnt/program"),
        *("--", "python3", "-V"),
    ]


def test_an_emulated_process_has_an_environment_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PYTHONHOME", "/here")
    found = environment("cortex-a53", OMP_NUM_THREADS="2")
    assert "PYTHONHOME" not in found
    assert (found["QEMU_CPU"], found["OMP_NUM_THREADS"]) == ("cortex-a53", "2")
