"""A federation of a device here and one in the emulation, and how far it is from the simulator."""

import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from emulated import DEVICE, PROGRAM, command, environment
from live_processes import Fleet, era_rows, table_of
from numpy.linalg import norm
from numpy.typing import NDArray
from safetensors.numpy import load_file

from fedloom import simulate
from fedloom.operating import new_token
from fedloom.progress import Quiet

__all__ = ["JOBS", "Emulation", "Job", "distance", "ledger", "play"]

CLIENTS, ROUNDS = 2, 2
LONGEST = 1200.0
"""Seconds that a federation may take: importing torch takes an emulated device half a minute."""


@dataclass(frozen=True)
class Emulation:
    """Where emulated devices run.

    Attributes:
        root: of the arm64 system.
        program: this machine's folder with a copy of fedloom.
        processor: which one qemu plays.
    """

    root: Path
    program: Path
    processor: str

    def join(self, fleet: Fleet, client: str, flags: Sequence[str]) -> None:
        """Start an emulated device."""
        number = fleet.clients.index(client)
        token = new_token(fleet.state, name=client, uses=1, seconds=3600.0)
        arguments = ["python3", "-m", "fedloom", "client", "--join", token, "--threads", "1"]
        arguments += ["--data", f"{DEVICE}/own{number}.jsonl"]
        arguments += ["--directory", f"{DEVICE}/device{number}", *flags]
        binds = {PROGRAM: self.program, DEVICE: fleet.folder}
        with (fleet.folder / f"device{number}.log").open("ab") as log:
            fleet.devices[client] = subprocess.Popen(
                command(self.root, arguments, binds),
                env=environment(self.processor),
                text=True,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )


@dataclass(frozen=True)
class Job:
    """What a federation does.

    Attributes:
        changes: tables of the job's file.
        backbone: more keys of its table ``[backbone]``.
    """

    changes: Mapping[str, Any]
    backbone: Mapping[str, Any]

    def table(self, model: Path) -> dict[str, Any]:
        """The job's file over a backbone's folder."""
        table = table_of(model, CLIENTS, **self.changes)
        table["backbone"] |= self.backbone
        return table


def _stage(**changes: Any) -> dict[str, Any]:
    return {"stages": [{"name": "s", "rounds": ROUNDS, "clients_per_round": CLIENTS, **changes}]}


JOBS = {
    "backprop": Job(
        _stage(train=["head", "lora"], local={"lr": 0.1, "batch_size": 4, "steps": 3}), {}
    ),
    "zeroth-order": Job(
        {
            **_stage(
                train=["head", "B"],
                local={"lr": 0.05, "head_lr": 0.1, "batch_size": 8, "steps": 2},
                strategy={"name": "zeroth-order"},
            ),
            "learner": {"name": "finite-difference", "directions": 4},
            "codec_up": {"name": "scalars"},
        },
        {"quantization": "int4", "kernel": "dequantize"},
    ),
    "words": Job(
        {
            **_stage(
                train=["B"],
                local={"lr": 0.05, "batch_size": 4, "steps": 2},
                strategy={"name": "zeroth-order"},
            ),
            "learner": {"name": "finite-difference", "directions": 4},
            "codec_up": {"name": "scalars"},
        },
        {"task": "causal-lm", "quantization": "int8", "kernel": "dequantize"},
    ),
}


def play(
    folder: Path, job: Job, model: Path, emulation: Emulation, flags: Sequence[str] = ()
) -> Fleet:
    """Play a job to its end, over TLS: the first client here, the second in the emulation.

    Then it is simulated here, under ``simulated``.
    """
    with Fleet.of(folder, job.table(model), era_rows(CLIENTS)) as fleet:
        fleet.serve()
        here, there = fleet.clients
        emulation.join(fleet, there, flags)
        fleet.join(here)
        wait(fleet)
        assert fleet.ended() == 0, fleet.logs()
        # They have heard that it is over; an emulated Python takes seconds to end.
        assert {device.wait(LONGEST) for device in fleet.devices.values()} == {0}, fleet.logs()
    simulate(
        folder / "job.toml", settings={"run.directory": folder / "simulated"}, observer=Quiet()
    )
    return fleet


def wait(fleet: Fleet) -> None:
    """Until the server has ended, or a device has failed."""
    assert fleet.server is not None
    end = time.monotonic() + LONGEST
    while fleet.server.poll() is None:
        assert not any(device.poll() for device in fleet.devices.values()), fleet.logs()
        assert time.monotonic() < end, fleet.logs()
        time.sleep(0.1)


def distance(folder: Path) -> float:
    """How far the live model is from the simulated one, as a part of the last round's step."""
    live, simulated = _models(folder / "live"), _models(folder / "simulated")
    return float(norm(live[-1] - simulated[-1]) / norm(simulated[-1] - simulated[-2]))


def ledger(run: Path) -> dict[str, bytes]:
    """The steps of a run whose clients send slopes: their directions, as keys, and integers.

    Digests of the models that come of them are left out: their heads are sums of floats.
    """
    found = load_file(max((run / "checkpoints").glob("round-*.safetensors")))
    names = (name for name in found if name.startswith("slot/ledger/"))
    return {name: found[name].tobytes() for name in names if not name.endswith("/digests")}


def _models(run: Path) -> list[NDArray[np.float64]]:
    """The parameters of every checkpoint."""
    paths = sorted((run / "checkpoints").glob("round-*.safetensors"))
    return [load_file(path)["params"].astype(np.float64) for path in paths]
