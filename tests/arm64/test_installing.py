"""What a phone or a board meets before it joins, in the emulation: its script, and wrong wheels.

Nightly, `make arm64`, as `test_arm64.py`.
"""

import os
import re
import subprocess
from pathlib import Path

import pytest
from emulated import OTHER_SITE, PROGRAM, SITE, call, environment
from small_jobs import ROOT

from fedloom.client.wheels import RUNS_ON_ALL

HERE = "FEDLOOM_ARM64" in os.environ
FOLDER = Path(os.environ.get("FEDLOOM_ARM64", "")).resolve()
pytestmark = [
    pytest.mark.skipif(not HERE, reason="minutes, and an arm64 root: of a nightly run"),
    pytest.mark.timeout(3600),
]
CHECKOUT, HOME, WHEELS = "/opt/checkout", "/mnt/home", "/mnt/wheels"


def checkout(folder: Path) -> Path:
    """What an archive of this checkout has, unpacked."""
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    archive = folder / "checkout.tar"
    subprocess.run(["tar", "-cf", archive, "-T", "-"], cwd=ROOT, input=names, text=True, check=True)
    made = folder / "checkout"
    made.mkdir()
    subprocess.run(["tar", "-xf", archive, "-C", made], check=True)
    return made


def test_a_phones_debian_gets_a_client(tmp_path: Path) -> None:
    """pip takes the wheels that are here already: it is slow enough without a network."""
    home = tmp_path / "home"
    home.mkdir()
    binds = {CHECKOUT: checkout(tmp_path), HOME: home, WHEELS: FOLDER / "wheels"}
    pip = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": WHEELS}
    pip["PIP_NO_COMPILE"] = "0"  # what pip calls yes, for options that begin with no
    done = call(
        FOLDER / "root",
        ["bash", f"{CHECKOUT}/examples/phone/debian.sh"],
        binds=binds,
        env=environment("cortex-a76", HOME=HOME, PYTHONPATH="", **pip),
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert re.search(r"^machine +aarch64, ", done.stdout, re.MULTILINE)
    assert re.search(rf"^torch +{re.escape(RUNS_ON_ALL)}", done.stdout, re.MULTILINE)
    installed = home / "fedloom" / "lib"
    assert list(installed.glob("*/site-packages/fedloom/backbones/kernels/_native*aarch64*.so"))


@pytest.mark.parametrize(("processor", "dies"), [("cortex-a72", True), ("cortex-a76", False)])
def test_a_wheel_that_dies_is_named(processor: str, *, dies: bool) -> None:
    done = call(
        FOLDER / "root",
        ["python3", "-m", "fedloom", "client", "--check"],
        binds={PROGRAM: ROOT},
        env=environment(processor, PYTHONPATH=f"{OTHER_SITE}:{SITE}:{PROGRAM}"),
    )
    if not dies:
        assert done.returncode == 0, done.stderr
        return
    assert done.returncode == 2, done.stderr
    assert "torch 2.10.0 cannot run on this processor (illegal instruction); 2.9.1 can" in (
        done.stderr
    )
