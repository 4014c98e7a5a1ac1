"""A job inside a real federation of Flower's: a SuperLink, two SuperNodes, two rounds."""

import json
import os
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import pytest

pytest.importorskip("flwr")

from live_processes import free_ports
from small_jobs import classify_table, fedloom, labelled_rows, numbers_of, write_rows, write_toml

NEW = tuple(map(int, version("flwr").split(".")[:2])) >= (1, 41)  # one HTTP port for everything
BIN = Path(sys.executable).parent


@pytest.mark.skipif("FEDLOOM_SUPERLINK" not in os.environ, reason="two minutes: of a nightly run")
@pytest.mark.skipif(not NEW, reason="flags of Flower's commands before 1.41")
@pytest.mark.timeout(400)
def test_two_rounds_on_a_real_superlink(text_model: dict[str, Path], tmp_path: Path) -> None:
    data = write_rows(tmp_path / "rows.jsonl", labelled_rows(48, clients=2))
    table = classify_table(text_model["classify"], data)
    table["run"] |= {"clients_at_once": 1, "directory": str(tmp_path / "run")}
    table["server"] = {"min_clients": 2}
    table["stages"] = [{**table["stages"][1], "rounds": 2, "clients_per_round": 2}]
    write_toml(tmp_path / "job.toml", table)
    assert fedloom("flower-app", "job.toml", "app", cwd=tmp_path).returncode == 0

    link, *nodes = (*free_ports(), *free_ports())[:3]
    environment = _environment(tmp_path, link)
    commands = [
        ["flower-superlink", "--port", str(link)],
        *(
            [
                *("flower-supernode", "--superlink", f"127.0.0.1:{link}", "--port", str(port)),
                *("--node-config", f'partition-id={place} threads=1 directory="{tmp_path}/node"'),
            ]
            for place, port in enumerate(nodes)
        ),
    ]
    started = []
    try:
        for place, (name, *rest) in enumerate(commands):
            # What the app needs is here; Flower would install it anew.
            flags = ["--insecure", "--disable-runtime-dependency-installation"]
            flags = flags if name == "flower-superlink" else flags[:1]
            with (tmp_path / f"{place}-{name}.log").open("w") as log:
                command = [str(BIN / name), *flags, *rest]
                process = subprocess.Popen(
                    command, cwd=tmp_path, env=environment, stdout=log, stderr=log
                )
            started.append(process)
        _submitted(tmp_path, environment)
        _wait_for(tmp_path / "run" / "summary.json", tmp_path)
    finally:
        for process in reversed(started):
            process.terminate()
        for process in started:
            process.wait(30)
    done = fedloom("simulate", "job.toml", "--out", "simulated", "--quiet", cwd=tmp_path)
    assert done.returncode == 0, done.stderr

    same = ("round", "accepted", "loss", "evaluation", "bytes_up")
    there, here = (
        [[line[key] for key in same] for line in numbers_of(tmp_path / run)]
        for run in ("run", "simulated")
    )
    assert there == here
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["rounds"] == 2


def _environment(folder: Path, port: int) -> dict[str, str]:
    home = folder / "home"
    (home / ".flwr").mkdir(parents=True)
    where = f'address = "127.0.0.1:{port}"\ninsecure = true\n'
    told = f'[superlink]\ndefault = "test"\n\n[superlink.test]\n{where}'
    (home / ".flwr" / "config.toml").write_text(told)
    path = os.pathsep.join((str(BIN), os.environ["PATH"]))
    quiet = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"}
    return {
        **os.environ,
        **quiet,
        "HOME": str(home),
        "FLWR_HOME": str(home / ".flwr"),
        "PATH": path,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }


def _submitted(folder: Path, environment: dict[str, str]) -> None:
    """Submit the app, as soon as the SuperLink answers."""
    for _ in range(30):
        done = subprocess.run(
            [str(BIN / "flwr"), "run", "app", "test"],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        if done.returncode == 0:
            return
        time.sleep(1)
    raise AssertionError(done.stdout + done.stderr + _logs(folder))


def _wait_for(path: Path, folder: Path) -> None:
    until = time.monotonic() + 240
    while not path.exists():
        assert time.monotonic() < until, _logs(folder)
        time.sleep(0.5)


def _logs(folder: Path) -> str:
    return "\n".join(f"{path.name}:\n{path.read_text()}" for path in sorted(folder.glob("*.log")))
