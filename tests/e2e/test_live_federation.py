"""A server and devices as they are run: killed, stopped and started again, to the simulator's bits.

Real paragraphs, mutual TLS, a process for everyone; a small random model, or minilm (`real`).
"""

import json
import math
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from live_processes import Fleet, era_rows, table_of, tensors
from small_jobs import fedloom, tensors_of
from waiting import until

from fedloom.backbones.fetch import fetch
from fedloom.core.errors import ModelError
from fedloom.operating import clients_table
from fedloom.server.standing import read_standing

CLIENTS = 8
STAGES: list[dict[str, Any]] = [
    {
        "name": "head",
        "rounds": 2,
        "clients_per_round": 8,
        "train": ["head"],
        "local": {"lr": 0.2, "batch_size": 8},
        "strategy": {"name": "fedavgm", "momentum": 0.8},
    },
    {
        "name": "adapter",
        "rounds": 3,
        "clients_per_round": 5,
        "local": {"optimizer": "adamw", "lr": 0.01, "batch_size": 8, "clip_norm": 1.0},
        "strategy": {"name": "fedadam", "lr": 0.01},
    },
]


def survives(fleet: Fleet) -> None:
    """Play the job while the server is killed twice in mid-round, and a device once."""
    fleet.begin(failpoint="update-acknowledged:3")  # on the disk, and its device not told
    assert fleet.ended() == -signal.SIGKILL
    assert fleet.under_way() == 1
    unheard = fleet.waiting()
    assert unheard
    fleet.devices[unheard[0]].kill()
    assert fleet.devices[unheard[0]].wait(30) == -signal.SIGKILL

    fleet.serve(failpoint="update-announced:15")  # 4 or 5 of round 1, 8 of round 2, then 2 or 3
    fleet.join(unheard[0])
    assert fleet.ended() == -signal.SIGKILL
    assert fleet.under_way() == 3

    fleet.serve()
    fleet.finish()


def is_the_same(fleet: Fleet) -> None:
    """What came out is what the simulator gives, to the bit."""
    fleet.compare()
    assert [line["round"] for line in fleet.lines()] == [0, 1, 2, 3, 4, 5]
    live = fleet.folder / "live"
    assert {name for name in tensors(live) if name.startswith("slot/")}  # the server optimizer's
    assert tensors_of(live) == tensors_of(fleet.folder / "simulated")


def test_kills_of_server_and_device_leave_the_simulators_bits(
    text_model: dict[str, Path], tmp_path: Path
) -> None:
    table = table_of(text_model["classify"], CLIENTS, stages=STAGES, codec_up="int8", device="rpi5")
    with Fleet.of(tmp_path, table, era_rows(CLIENTS)) as fleet:
        survives(fleet)
    is_the_same(fleet)
    for line in map(json.loads, (tmp_path / "live" / "metrics.jsonl").read_text().splitlines()[1:]):
        busy = 12.0 * line["device_seconds"] + 5.0 * line["network_seconds"]  # watts of a Pi 5
        assert line["device_seconds"] > 0
        assert line["network_seconds"] > 0
        assert line["joules"] >= 0.999 * busy  # and those of waiting for the slowest


@pytest.mark.real
@pytest.mark.skipif("FEDLOOM_KILLS" not in os.environ, reason="80 s: of a nightly run")
def test_kills_leave_the_simulators_bits_with_minilm(tmp_path: Path) -> None:
    try:
        fetch("minilm")
    except ModelError as error:
        pytest.skip(str(error))
    table = table_of("minilm", CLIENTS, stages=STAGES, codec_up="int8")
    table["backbone"] |= {"dtype": "float32", "pooling": "mean", "normalize": True}
    table["adapter"] |= {"layers": [-2, -1]}
    with Fleet.of(tmp_path, table, era_rows(CLIENTS)) as fleet:
        survives(fleet)
    is_the_same(fleet)


def rounds_done(fleet: Fleet) -> int:
    return max((line["round"] for line in fleet.lines()), default=-1)


def another_round(fleet: Fleet) -> None:
    before = rounds_done(fleet)
    until(lambda: rounds_done(fleet) > before, f"a round after {before}")


def pauses_and_goes_on(fleet: Fleet) -> None:
    assert fedloom("stop", cwd=fleet.folder).returncode == 0
    until(lambda: read_standing(fleet.state).phase == "paused", "a pause")
    before = rounds_done(fleet)
    told = json.loads(fedloom("status", "--json", cwd=fleet.folder).stdout)
    assert (told["phase"], told["alive"], told["present"]) == ("paused", True, 2)
    assert rounds_done(fleet) == before
    assert fedloom("resume", cwd=fleet.folder).returncode == 0
    until(lambda: rounds_done(fleet) > before, f"a round after {before}")


def test_paused_stopped_and_begun_again_it_evaluates_on_its_clients(
    text_model: dict[str, Path], tmp_path: Path
) -> None:
    stage = {"name": "head", "rounds": 12, "clients_per_round": 2, "train": ["head"]}
    table = table_of(text_model["classify"], 2, stages=[stage])
    table["server"]["evaluate_clients"] = 2
    with Fleet.of(tmp_path, table, era_rows(2)) as fleet:
        fleet.begin()
        until(lambda: rounds_done(fleet) >= 1, "a first round")
        pauses_and_goes_on(fleet)
        assert fleet.told(signal.SIGTERM) == 0
        assert json.loads((tmp_path / "live" / "summary.json").read_text())["interrupted"]
        fleet.serve()
        another_round(fleet)
        assert fleet.told(signal.SIGINT) == 0
        joined = [(row["id"], row["enrolled"]) for row in clients_table(fleet.state)]
        evaluations = [line["evaluation"] for line in fleet.lines()]

        assert rounds_done(fleet) < 12
        fleet.serve("--overwrite")
        assert fleet.ended() == 0
        assert fleet.gone() == [0, 0]

    assert [row[0] for row in joined] == list(fleet.clients)
    assert [(row["id"], row["enrolled"]) for row in clients_table(fleet.state)] == joined
    assert all(0 <= e["clients_accuracy"] <= 1 for e in evaluations[1:])
    assert all(math.isfinite(e["clients_loss"]) for e in evaluations[1:])
    assert [line["round"] for line in fleet.lines()] == list(range(13))
    fleet.simulate()
    assert tensors(tmp_path / "live") == tensors(tmp_path / "simulated")
