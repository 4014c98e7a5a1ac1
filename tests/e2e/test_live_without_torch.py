"""A federation of a light device and one that has no torch, over a backbone in 4 bits.

Each is a process in which what it must not need cannot be imported, and which writes down at its
end what it has imported.
"""

import json
import os
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from live_processes import Fleet, era_rows, table_of, tensors

from fedloom import simulate
from fedloom.progress import Quiet

pytest.importorskip("onnxruntime")

HEAVY = (
    *("transformers", "peft", "accelerate", "huggingface_hub", "flwr", "ray", "pandas", "pyarrow"),
    *("fastapi", "starlette", "uvicorn", "aiohttp", "requests", "httpx", "httpcore", "jinja2"),
    *("matplotlib", "scipy", "sklearn", "tensorboard", "bitsandbytes", "torchao", "rich"),
)
CLIENTS, ROUNDS = 2, 3
WATCHED = '''
"""Imported by every Python that finds it: some modules cannot be imported, the others are noted."""

import atexit
import json
import os
import os
import sys
from pathlib import Path

BLOCKED = frozenset({blocked!r})


class Without:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in BLOCKED:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
        return None


def note():
    Path({noted!r}).write_text(json.dumps(sorted(sys.modules)))


sys.meta_path.insert(0, Without())
atexit.register(note)
'''


def watched(folder: Path, name: str, blocked: tuple[str, ...]) -> Path:
    """A folder whose ``sitecustomize`` blocks modules and notes the others in ``NAME.json``."""
    found = folder / f"path-{name}"
    found.mkdir()
    text = WATCHED.format(blocked=blocked, noted=str(folder / f"{name}.json"))
    (found / "sitecustomize.py").write_text(text)
    return found


def imported(folder: Path, name: str) -> set[str]:
    """The packages that a device has imported."""
    modules = json.loads((folder / f"{name}.json").read_text())
    return {module.partition(".")[0] for module in modules}


def unnamed(modules: set[str], named: set[str]) -> set[str]:
    """Modules of installed packages none of which is among those named, but fedloom's."""
    known = packages_distributions()
    of = {m: {name.lower().replace("_", "-") for name in known.get(m, ())} for m in modules}
    # Loaded wherever they are installed: by setuptools' hook, and by gRPC.
    hooks = {"fedloom", "_distutils_hack", "grpc_health", "grpc_tools"}
    return {m for m, names in of.items() if names and not names & named} - hooks


def named_in_the_guide() -> set[str]:
    """What docs/deploy.md installs where there is no torch."""
    guide = (Path(__file__).parents[2] / "docs" / "deploy.md").read_text(encoding="utf-8")
    (line,) = (line for line in guide.splitlines() if "--no-deps ~/fedloom-" in line)
    return set(line.partition(".whl ")[2].split())


def of_this_job(backbone: Path) -> dict[str, Any]:
    table = table_of(
        backbone,
        CLIENTS,
        stages=[
            {
                "name": "steps",
                "rounds": ROUNDS,
                "clients_per_round": CLIENTS,
                "train": ["head", "B"],
                "local": {"lr": 0.05, "head_lr": 0.1, "batch_size": 8, "steps": 2},
                "strategy": {"name": "zeroth-order"},
            }
        ],
        learner={"name": "finite-difference", "directions": 4},
        codec_up={"name": "scalars"},
        evaluate={"every": 1},
    )
    table["backbone"]["quantization"] = "int4"
    return table


def test_light_and_torchless_devices_train_a_quantized_model(
    text_model: dict[str, Path], tmp_path: Path
) -> None:
    with Fleet.of(tmp_path, of_this_job(text_model["classify"]), era_rows(CLIENTS)) as fleet:
        fleet.serve()
        light, tiny = fleet.clients
        fleet.join(light, "--engine", "torch", path=watched(tmp_path, "light", HEAVY))
        fleet.join(tiny, path=watched(tmp_path, "tiny", ("torch", *HEAVY)))
        assert fleet.ended() == 0, fleet.logs()
        assert set(fleet.gone()) == {0}, fleet.logs()
        lines = fleet.lines()
    assert [(line["accepted"], line["refused"]) for line in lines[1:]] == [(CLIENTS, 0)] * ROUNDS
    assert imported(tmp_path, "light").isdisjoint(HEAVY)
    assert {"torch", "numpy", "grpc", "tokenizers"} <= imported(tmp_path, "light")
    assert imported(tmp_path, "tiny").isdisjoint(("torch", "safetensors.torch", *HEAVY))
    assert {"onnxruntime", "numpy", "grpc", "tokenizers"} <= imported(tmp_path, "tiny")
    assert not unnamed(imported(tmp_path, "tiny"), named_in_the_guide())

    simulate(
        tmp_path / "job.toml", settings={"run.directory": tmp_path / "simulated"}, observer=Quiet()
    )
    for line, other in zip(lines, fleet.lines("simulated"), strict=True):
        assert line["loss"] == pytest.approx(other["loss"], abs=2e-3)
        assert line["evaluation"]["loss"] == pytest.approx(other["evaluation"]["loss"], abs=2e-3)


def words_of(backbone: Path | str, rounds: int) -> dict[str, Any]:
    """FedKSeed over a language model: all that travels is sums for the directions of one pool."""
    pool = {"scheme": "pool", "pool": 64, "family": "gaussian", "exact": []}
    stage = {
        "rounds": rounds,
        "clients_per_round": CLIENTS,
        "train": ["B"],
        "local": {"lr": 1e-3, "batch_size": 2, "steps": 2},
        "strategy": {"name": "fedkseed"},
    }
    search = {"name": "finite-difference", "difference": "central", "directions": 2}
    table = table_of(
        backbone,
        CLIENTS,
        stages=[stage],
        learner={**search, **pool},
        codec_up={"name": "scalars", **pool},
        evaluate={"every": 1},
    )
    table["backbone"] |= {"task": "causal-lm", "dtype": "float32"}
    del table["backbone"]["head_init"]
    return table


def played(table: dict[str, Any], folder: Path) -> None:
    """Two devices without torch, and then the same in the simulator, with torch."""
    with Fleet.of(folder, table, era_rows(CLIENTS)) as fleet:
        fleet.serve()
        for name, client in zip(("one", "two"), fleet.clients, strict=True):
            path = watched(folder, name, ("torch", *HEAVY))
            fleet.join(client, "--engine", "onnx", path=path)
        assert fleet.ended() == 0, fleet.logs()
        assert set(fleet.gone()) == {0}, fleet.logs()
    for name in ("one", "two"):
        assert imported(folder, name).isdisjoint(("torch", "safetensors.torch", *HEAVY))
    lines = fleet.lines()
    assert [(line["accepted"], line["refused"]) for line in lines[1:]] == [(CLIENTS, 0)] * 2
    fleet.simulate()
    for line, other in zip(lines, fleet.lines("simulated"), strict=True):
        assert line["evaluation"] == pytest.approx(other["evaluation"], rel=1e-5)
        if line["round"]:
            assert line["loss"] == pytest.approx(other["loss"], rel=1e-5)
    live, simulated = (
        np.frombuffer(tensors(folder / run)["params"], dtype=np.float32)
        for run in ("live", "simulated")
    )
    # A slope that is rounded to the next integer is 2e-3 of lr = 1e-3 of a direction: 1e-5 or less.
    assert np.abs(live - simulated).max() <= 5e-5
    assert tensors(folder / "live").keys() == tensors(folder / "simulated").keys()


def test_torchless_devices_train_a_language_model(
    text_model: dict[str, Path], tmp_path: Path
) -> None:
    played(words_of(text_model["causal-lm"], 2), tmp_path)


@pytest.mark.skipif("FEDLOOM_KILLS" not in os.environ, reason="minutes: of a nightly run")
def test_torchless_devices_train_smollm2(tmp_path: Path) -> None:
    played(words_of("smollm2", 2), tmp_path)
