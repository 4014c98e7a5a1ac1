"""The scripts that install a client on a phone, with programs of Termux and Debian played."""

import os
import subprocess
from pathlib import Path

import pytest
from small_jobs import ROOT

SCRIPTS = ROOT / "examples" / "phone"


def run(script: str, folder: Path, programs: dict[str, str]) -> "subprocess.CompletedProcess[str]":
    """Run a script where some programs note how they are called, and then do as a shell says."""
    own = folder / "bin"
    own.mkdir()
    for name, text in programs.items():
        (own / name).write_text(f'#!/bin/sh\necho "{name} $*" >> "{folder}/calls"\n{text}\n')
        (own / name).chmod(0o755)
    return subprocess.run(
        ["bash", str(SCRIPTS / script)],
        env={"PATH": f"{own}:{os.environ['PATH']}", "HOME": str(folder)},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def calls(folder: Path) -> list[str]:
    return (folder / "calls").read_text().splitlines()


@pytest.mark.parametrize("there", [True, False])
def test_termux_gets_a_debian_once(tmp_path: Path, *, there: bool) -> None:
    fails = "" if there else 'case "$*" in *true) exit 1;; esac'
    done = run("termux.sh", tmp_path, {"pkg": "", "proot-distro": fails})
    assert done.returncode == 0, done.stderr
    inside = f"--bind {ROOT}:/opt/checkout -- bash /opt/checkout/examples/phone/debian.sh"
    assert calls(tmp_path) == [
        "pkg install --yes proot-distro termux-api",
        "proot-distro login debian -- true",
        *([] if there else ["proot-distro install debian"]),
        f"proot-distro login debian {inside}",
    ]


def test_debian_installs_what_boards_can_run(tmp_path: Path) -> None:
    home = tmp_path / "fedloom" / "bin"
    home.mkdir(parents=True)
    for name in ("pip", "fedloom"):
        (home / name).write_text(f'#!/bin/sh\necho "{name} $*" >> "{tmp_path}/calls"\n')
        (home / name).chmod(0o755)
    done = run("debian.sh", tmp_path, {"uname": "echo aarch64", "apt-get": "", "python3": ""})
    assert done.returncode == 0, done.stderr
    packages = "gcc libc6-dev python3 python3-venv"
    assert calls(tmp_path) == [
        "uname -m",
        "apt-get update",
        f"apt-get install --yes --no-install-recommends {packages}",
        f"python3 -m venv {tmp_path}/fedloom",
        f"pip install --upgrade -c {ROOT}/constraints-arm64.txt {ROOT}",
        "fedloom client --check",
    ]


def test_other_processors_are_told(tmp_path: Path) -> None:
    done = run("debian.sh", tmp_path, {"uname": "echo armv7l", "apt-get": "exit 9"})
    assert done.returncode == 2
    assert done.stderr == "armv7l: PyTorch's wheels need a 64-bit ARM system (aarch64)\n"
