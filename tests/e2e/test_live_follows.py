"""Devices that follow the model by what happened to it: killed, begun again, one model damaged.

A server and devices as processes of their own, over mutual TLS, to the simulator's bits.
"""

import json
import signal
from pathlib import Path
from typing import Any

from live_processes import Fleet, era_rows, table_of
from safetensors.numpy import load_file

from fedloom.operating import standing_lines
from fedloom.server.standing import read_standing

CLIENTS, ROUNDS = 2, 8
STAGE: dict[str, Any] = {
    "name": "steps",
    "rounds": ROUNDS,
    "clients_per_round": CLIENTS,
    "local": {"lr": 0.05, "batch_size": 8, "steps": 1},
    "strategy": {"name": "zeroth-order"},
}


def rounds(fleet: Fleet, run: str = "live") -> list[dict[str, Any]]:
    path = fleet.folder / run / "metrics.jsonl"
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text.splitlines() if line.endswith("}")]


def held(fleet: Fleet, number: int) -> list[Path]:
    """The models that a device keeps: one at most."""
    return list((fleet.folder / f"device{number}" / "held").glob("*.safetensors"))


def kill(fleet: Fleet, number: int) -> None:
    device = fleet.devices[fleet.clients[number]]
    device.kill()
    assert device.wait(30) == -signal.SIGKILL


def damage(path: Path) -> None:
    """Change a bit of the adapter's first number; the file is whole."""
    data = bytearray(path.read_bytes())
    data[8 + int.from_bytes(data[:8], "little")] ^= 1  # behind the header of a safetensors file
    path.write_bytes(data)


def size_of(run: Path) -> int:
    """Bytes of the whole model as it would go down."""
    path = sorted((run / "checkpoints").glob("round-*.safetensors"))[-1]
    return int(load_file(path)["params"].nbytes)


def test_devices_follow_to_the_simulators_bits(text_model: dict[str, Path], tmp_path: Path) -> None:
    table = table_of(
        text_model["classify"],
        CLIENTS,
        stages=[STAGE],
        learner={"name": "finite-difference", "directions": 4},
        codec_up={"name": "scalars"},
        adapter={"name": "lora", "rank": 8},
        evaluate={"every": 5},
    )
    with Fleet.of(tmp_path, table, era_rows(CLIENTS)) as fleet:
        fleet.begin(failpoint="update-announced:5")  # in the third round
        assert fleet.ended() == -signal.SIGKILL
        for number in (0, 1):
            kill(fleet, number)
            assert len(held(fleet, number)) == 1
        damage(held(fleet, 0)[0])
        held(fleet, 1)[0].unlink()  # as one that joins late
        fleet.serve()
        for number in (0, 1):
            fleet.join(fleet.clients[number])
        fleet.finish()
        assert read_standing(fleet.state).resyncs == 1, fleet.logs()
        assert any(line.startswith("  resyncs   1") for line in standing_lines(fleet.state))

    fleet.compare()
    dense = size_of(tmp_path / "live")
    down = [line["bytes_down"] for line in rounds(fleet)][1:]
    other = [line["bytes_down"] for line in rounds(fleet, "simulated")][1:]
    assert sum(other) < ROUNDS * CLIENTS * dense / 5
    assert sum(other) <= sum(down) < sum(other) + 3 * dense
