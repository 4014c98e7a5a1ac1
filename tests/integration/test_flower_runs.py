"""Apps as people write them, simulated: older ones, mods, actions by name; stopped and resumed."""

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("flwr")

from command_forks import command_environment

from fedloom.cli import main

APPS = Path(__file__).parents[1] / "fixtures"
SECURE = """
from flwr.app import Context
from flwr.common import ndarrays_to_parameters
from flwr.server import LegacyContext, ServerConfig
from flwr.server.strategy import FedAvg
from flwr.server.workflow import DefaultWorkflow, SecAggPlusWorkflow
from flwr.serverapp import Grid, ServerApp
from legacy.task import get_weights, net

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    strategy = FedAvg(
        fraction_evaluate=0.0,
        min_available_clients=3,
        initial_parameters=ndarrays_to_parameters(get_weights(net())),
        on_fit_config_fn=lambda number: {"lr": 0.1, "server-round": number},
    )
    config = ServerConfig(num_rounds=2)
    legacy = LegacyContext(context, config=config, strategy=strategy)
    secure = SecAggPlusWorkflow(num_shares=3, reconstruction_threshold=2, max_weight=100)
    DefaultWorkflow(fit_workflow=secure)(grid, legacy)
"""


@pytest.fixture(autouse=True)
def apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Apps of one process have modules of the same names."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in [name for name in sys.modules if name.partition(".")[0] in ("legacy", "mods")]:
        monkeypatch.delitem(sys.modules, name)


def lines_of(folder: str) -> list[dict[str, object]]:
    lines = [json.loads(line) for line in Path(folder, "metrics.jsonl").read_text().splitlines()]
    times = ("seconds", "elapsed")
    return [{key: value for key, value in line.items() if key not in times} for line in lines]


def run(app: str | Path, *more: str) -> int:
    return main(["run", str(APPS / app), "--quiet", "--nodes", "3", *more])


def test_apps_of_the_older_kind(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("flower_legacy", "--out", "run", "--run-config", "failing=2") == 0

    found = lines_of("run")
    assert [(line["round"], line["accepted"], line["refused"]) for line in found] == [
        *((1, 3, 0), (2, 2, 1), (3, 3, 0))
    ]
    assert found[1]["refusals"] == [{"client": "2", "reason": "ValueError: the sensor is broken"}]
    assert {"loss", "close"} == found[0]["evaluation"].keys()  # type: ignore[attr-defined]
    # The older Server asks every node in a thread of its own; one works at a time.
    said = capsys.readouterr().out.splitlines()
    assert [line for line in said if line.startswith("round")] == [
        *("round 1 results 3 failures 0", "round 2 results 2 failures 1"),
        "round 3 results 3 failures 0",
    ]
    assert [line.split()[1] for line in said if line.startswith("global")] == ["0", "1", "2", "3"]


def test_apps_with_secure_aggregation(tmp_path: Path) -> None:
    shutil.copytree(APPS / "flower_legacy", tmp_path / "secure")
    (tmp_path / "secure" / "legacy" / "server_app.py").write_text(SECURE)
    client = tmp_path / "secure" / "legacy" / "client_app.py"
    text = client.read_text().replace("client_fn=client_fn", "client_fn, mods=[secaggplus_mod]")
    client.write_text(f"from flwr.client.mod import secaggplus_mod\n{text}")

    assert run(tmp_path / "secure", "--out", "run") == 0

    assert [(line["accepted"], line["refused"]) for line in lines_of("run")] == [(3, 0)] * 2


@pytest.mark.parametrize("name", ["mods", "legacy"])
def test_apps_that_are_killed_go_on(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    whole = {"mods": "--seed=4", "legacy": "--run-config=failing=2"}[name]
    app = APPS / f"flower_{name}"
    torn = ["run", str(app), "--quiet", "--nodes", "3", "--out", "torn", whole]
    # In the second round: 3 of 6 or 7 answers to training are there.
    environment = {**command_environment(), "DIES_AT": {"mods": "13", "legacy": "10"}[name]}
    command = [sys.executable, "-m", "fedloom", *torn]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert len(lines_of("torn")) == 1
    assert "--resume goes on" in refused(capsys, app.name, "--out", "torn", whole)
    other = refused(capsys, app.name, "--out=torn", "--resume", whole, "--seed=9")
    assert f"holds another run: seed = {4 if name == 'mods' else 0}, not 9" in other

    assert run(app, "--out", "torn", "--resume", whole) == 0
    assert run(app, "--out", "whole", whole) == 0

    if name == "mods":
        assert lines_of("torn") == lines_of("whole")
    else:  # its Server adds in the order in which threads are done
        assert [line["loss"] for line in lines_of("torn")] == pytest.approx(
            [line["loss"] for line in lines_of("whole")], rel=1e-5
        )
    assert not Path("torn", "journal.bin").exists()
    assert "holds this run, finished" in refused(capsys, app.name, "--out=torn", "--resume", whole)


def refused(capsys: pytest.CaptureFixture[str], app: str, *more: str) -> str:
    capsys.readouterr()
    assert run(app, *more) == 2
    return capsys.readouterr().err


def test_an_app_that_was_changed_is_told_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(APPS / "flower_mods", tmp_path / "own")
    server = tmp_path / "own" / "mods" / "server_app.py"
    text = server.read_text()
    server.write_text(text.replace('print("last"', 'raise KeyError("mistake")\n    print("last"'))
    with pytest.raises(KeyError, match="mistake") as caught:
        run(tmp_path / "own", "--out", "run")
    assert "--resume goes on" in caught.value.__notes__[0]
    assert len(lines_of("run")) == 2

    for name in [name for name in sys.modules if name.startswith("mods")]:
        del sys.modules[name]
    server.write_text(text.replace("fraction_train=0.5", "min_train_nodes=3"))
    error = refused(capsys, str(tmp_path / "own"), "--out", "run", "--resume")
    assert "the ServerApp sends another message than before: 'train' to node" in error

    for name in [name for name in sys.modules if name.startswith("mods")]:
        del sys.modules[name]
    server.write_text(text)
    assert run(tmp_path / "own", "--out", "run", "--resume") == 0
    assert run("flower_mods", "--out", "whole") == 0
    assert lines_of("run") == lines_of("whole")
