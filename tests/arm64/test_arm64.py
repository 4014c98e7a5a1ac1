"""Clients on emulated ARM processors, against a server here: the same bits, the same training.

Nightly, `make arm64`: `$FEDLOOM_ARM64` is a folder that `make_root.py` has made.
"""

import json
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from command_forks import command_environment
from emulated import PROCESSORS, PROGRAM, SITE, call, environment
from federations import JOBS, Emulation, distance, ledger, play
from small_jobs import ROOT

HERE = "FEDLOOM_ARM64" in os.environ
pytestmark = [
    pytest.mark.skipif(not HERE, reason="minutes, and an arm64 root: of a nightly run"),
    pytest.mark.timeout(1800),
]
CLIENTS = {
    "torch": (("--engine", "torch"), ("backprop", "zeroth-order")),
    "onnx": (("--engine", "onnx"), ("zeroth-order", "words")),
}
"""What a client is started with, and the jobs that it can do."""
PLAYED = [(client, job) for client, (_, jobs) in CLIENTS.items() for job in jobs]
TOLERANCE = 1e-5
"""Of a round's step. Sums in float32 in another order, of another torch, differ by 1e-7 or so."""


@pytest.fixture(scope="module")
def root() -> Path:
    return Path(os.environ["FEDLOOM_ARM64"]).resolve() / "root"


@pytest.fixture(scope="module")
def program(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """This checkout as an installation has it, with its C compiled in the emulation."""
    folder = tmp_path_factory.mktemp("program")
    for name in ("fedloom", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("*.so"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    for extension in project["tool"]["setuptools"]["ext-modules"]:
        place = f"{PROGRAM}/{extension['name'].replace('.', '/')}.cpython-311-aarch64-linux-gnu.so"
        sources = [f"{PROGRAM}/fedloom/{source}" for source in extension["sources"]]
        compile = ["gcc", *extension["extra-compile-args"], "-shared", "-fPIC", "-o", place]
        done = call(
            root, [*compile, *sources], binds={PROGRAM: folder}, env=environment(PROCESSORS[0])
        )
        assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(params=PROCESSORS)
def emulation(root: Path, program: Path, request: pytest.FixtureRequest) -> Emulation:
    return Emulation(root, program, request.param)


def test_bits_are_those_of_this_machine(emulation: Emulation) -> None:
    own = {**command_environment(), "PYTHONPATH": f"{ROOT}:{ROOT}/tests/unit"}
    script = "tests/arm64/bits.py"
    done = subprocess.run(
        [sys.executable, ROOT / script], env=own, capture_output=True, text=True, check=True
    )
    path = f"{SITE}:{PROGRAM}:{PROGRAM}/tests/unit"
    there = call(
        emulation.root,
        ["python3", f"{PROGRAM}/{script}"],
        binds={PROGRAM: emulation.program},
        env=environment(emulation.processor, PYTHONPATH=path),
    )
    assert there.returncode == 0, there.stderr
    expected, found = json.loads(done.stdout), json.loads(there.stdout)
    assert found.pop("machine") == "aarch64"
    assert expected.pop("machine") != "aarch64"
    assert {"int4-32 in float32", "int4-32 in bfloat16"} <= found.keys()  # its C was compiled
    assert {name: found[name] for name in expected} == expected


@pytest.mark.parametrize(("client", "job"), PLAYED)
def test_a_client_trains_as_the_simulator_does(
    client: str, job: str, emulation: Emulation, text_model: dict[str, Path], tmp_path: Path
) -> None:
    flags, _ = CLIENTS[client]
    model = text_model["causal-lm" if job == "words" else "classify"]
    fleet = play(tmp_path, JOBS[job], model, emulation, flags)
    assert [line["accepted"] for line in fleet.lines()[1:]] == [2, 2]
    found = distance(tmp_path)
    print(f"{emulation.processor}, {client}, {job}: {found:.2e} of a round's step")
    assert found <= TOLERANCE
    assert ledger(tmp_path / "live") == ledger(tmp_path / "simulated")
    assert bool(ledger(tmp_path / "live")) == (job != "backprop")
    for line, other in zip(fleet.lines(), fleet.lines("simulated"), strict=True):
        assert line["evaluation"]["loss"] == pytest.approx(other["evaluation"]["loss"], rel=1e-4)
