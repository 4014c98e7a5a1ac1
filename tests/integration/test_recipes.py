"""Every recipe with local steps for a few rounds on a tiny model of three blocks."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_jobs import labelled_rows

import fedloom
from fedloom.core.config import read_toml
from fedloom.core.types import Params
from fedloom.progress import Quiet
from fedloom.simulation.simulator import Run
from fedloom.sources import recipes

# Searches by losses alone have no local steps, and tests of their own.
METHODS = sorted(name for name, path in recipes().items() if "local" in read_toml(path))
CLIENTS = 7  # as many as Bulyan needs for one malicious client
FRAME = 68
"""Bytes around what a client sends: magic, digest, lengths, checksum."""
# Numbers that travel up for a client, at most, by recipe; what comes in full is left to itself.
SCALARS = {
    "fwdllm": 1 * 4,
    "fedkseed": 4 * 4,
    "fedkseed-pro": 4 * 4,
    "decomfl": 5 * 4 * 2,
    "mezo": 2,
    "feedsign": 1,
}


def table_of(name: str, models: dict[str, Path], folder: Path) -> dict[str, Any]:
    """A recipe as it is, but for the model, the data and how long it runs."""
    table = read_toml(recipes()[name])
    backbone = models[table["backbone"].get("task", "classify")]
    table["backbone"] |= {"name": str(backbone), "max_tokens": 32, "dtype": "float32"}
    table["data"] = {"client": "client", "split": "split"}
    table["run"] = {"directory": str(folder), "workers": 1, "cache_gb": 0.1, "cache_disk_gb": 0.0}
    table |= {"rounds": 3, "clients_per_round": CLIENTS, "evaluate": {"every": 1}}
    table["local"]["steps"] = min(table["local"].get("steps", 1), 4)
    if "f" in table["strategy"]:
        table["strategy"]["f"] = 1
    if "root" in table["strategy"]:  # is in every round
        table["partition"]["clients"] = CLIENTS
    if "patience" in table["strategy"]:
        table["strategy"]["patience"] = 2
    if "split" in table:
        table["split"]["bottom"] = min(table["split"]["bottom"], 1)
        at_home = [n for n in table["adapter"].get("layers", ()) if n in (0, -1)]
        table["adapter"]["layers"] = at_home
    if "layer" in str(table.get("keep", "")):
        table["keep"] = ["layer.0"]
    if "emulator" in table["backbone"]:
        table["backbone"]["emulator"]["folder"] = f"{folder}-emulator"
    for tier in table.get("tiers", ()):  # the tiny model has three blocks
        tier["train"] = [p.replace("layer.5", "layer.2") for p in tier.get("train", ["head", "B"])]
    return table


def played(name: str, models: dict[str, Path], folder: Path) -> Run:
    return fedloom.simulate(table_of(name, models, folder), data=labelled_rows(), observer=Quiet())


@pytest.mark.parametrize("name", METHODS)
def test_a_recipe_moves_the_model(name: str, text_model: dict[str, Path], tmp_path: Path) -> None:
    run = played(name, text_model, tmp_path)
    start: Params = run.prepared.model.initial(run.prepared.job.seed)
    assert len(run.history) == 4
    assert np.isfinite(run.history["evaluation.loss"]).all()
    assert (run.params.vector != start.vector).any()
    assert not np.asarray(run.history["refused"]).any()
    if name in SCALARS:
        assert max(run.history["bytes_up"]) <= CLIENTS * (SCALARS[name] + FRAME)


@pytest.mark.parametrize("name", ["zeroth-order", "tiers"])
def test_an_exact_head_learns_in_a_few_rounds(
    name: str, text_model: dict[str, Path], tmp_path: Path
) -> None:
    loss = played(name, text_model, tmp_path).history["evaluation.loss"]
    assert loss[-1] < loss[0] - 0.02  # of three classes: ln 3 = 1.10 before
