"""A job as a Flower app: written, run in this process over a Grid, equal to the simulator's."""

import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("flwr")

from small_jobs import classify_table, labelled_rows, numbers_of, tensors_of, write_rows, write_toml

import fedloom
from fedloom.cli import main
from fedloom.core.errors import ConfigError
from fedloom.flower.app import read_app
from fedloom.flower.folder import folder_for
from fedloom.flower.hosting import Node
from fedloom.flower.running import run_server_app
from fedloom.flower.simulated import Simulated
from fedloom.progress import Quiet

PRUNING = {
    "learner": {"name": "hetlora", "decay": 0.5, "price": 2.0},
    "strategy": {"name": "hetlora", "ranks": [[1, 0.3], [2, 0.7]]},
    "adapter": {"name": "lora", "rank": 2},
}


@pytest.mark.parametrize("more", [{"codec_up": {"name": "block-drop", "rate": 0.5}}, PRUNING])
def test_a_job_in_flowers_messages_is_the_simulators(
    more: dict[str, Any],
    text_model: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])  # each app has the same package name
    for module in [name for name in sys.modules if name.startswith("fedloom_job")]:
        monkeypatch.delitem(sys.modules, module)
    data = write_rows(tmp_path / "rows.jsonl", labelled_rows(144, clients=6))
    table = classify_table(text_model["classify"], data, **more)
    table["run"] |= {"clients_at_once": 1, "directory": "job"}
    table["server"] = {"min_clients": 6}
    stage = {**table["stages"][1], "rounds": 3, "clients_per_round": 4}
    table["stages"] = [{**stage, "strategy": table.pop("strategy", "fedavg")}]
    write_toml(tmp_path / "job.toml", table)
    assert main(["flower-app", "job.toml", "app"]) == 0
    assert "app is written" in capsys.readouterr().out

    app = read_app(tmp_path / "app", ["settings='run.directory=there'"])
    own = {"threads": 1, "directory": str(tmp_path / "device")}
    carrier = Simulated(app.client_app(), 6, app.config, own)
    run = run_server_app(app, carrier, folder_for(app), Quiet())
    fedloom.simulate("job.toml", settings={"run.directory": "simulated"}, observer=Quiet())

    assert run.rounds == 3
    same = ("round", "stage", "accepted", "loss", "evaluation", "bytes_up", "bytes_down")
    ours, theirs = (
        [[line[key] for key in same] for line in numbers_of(Path(where))]
        for where in ("simulated", "there")
    )
    assert ours == theirs
    assert tensors_of(Path("simulated")) == tensors_of(Path("there"))


def test_strategies_of_flower_are_refused_by_our_clients(
    text_model: dict[str, Path], tmp_path: Path
) -> None:
    import numpy as np
    from flwr.app import ArrayRecord, Message, RecordDict

    from fedloom.core.config import to_table
    from fedloom.core.job import job_from
    from fedloom.flower.job_client import client_app

    table = to_table(job_from(classify_table(text_model["classify"])))
    node = Node(client_app(table), 1, {"partition-id": 0}, {})
    content = RecordDict({"arrays": ArrayRecord([np.zeros(2)])})
    reply = node.answer(Message(content, dst_node_id=1, message_type="train"))

    assert "answer fedloom's ServerApp, and no strategy of Flower's" in reply.error.reason
    assert "strategy = 'flwr:FedAvg'" in reply.error.reason


def test_split_learning_is_refused(text_model: dict[str, Path], tmp_path: Path) -> None:
    from fedloom.core.job import job_from
    from fedloom.flower.job_app import write_app

    table = classify_table(text_model["classify"], split={"mode": "v1", "bottom": 1})
    with pytest.raises(ConfigError, match=r"split\.mode = 'v1': Flower's messages cannot carry"):
        write_app(job_from(table), tmp_path / "app")
