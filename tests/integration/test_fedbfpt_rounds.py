"""FedBFPT's recipe on a tiny model: what moves, what travels, what it ends in."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_jobs import labelled_rows

import fedloom
from fedloom.core.config import read_toml
from fedloom.core.errors import StrategyError
from fedloom.progress import Quiet
from fedloom.simulation.simulator import Run
from fedloom.sources import recipes

CLIENTS = 4


def table_of(backbone: Path, folder: Path, rounds: int = 5) -> dict[str, Any]:
    table = read_toml(recipes()["fedbfpt"])
    table["backbone"] |= {"name": str(backbone), "max_tokens": 32}
    table["data"] = {"client": "client", "split": "split"}
    table["run"] = {"directory": str(folder), "workers": 1, "cache_gb": 0.0, "cache_disk_gb": 0.0}
    table["evaluate"] = {"every": 100}
    for stage, count in zip(table["stages"], (rounds, 2), strict=True):
        stage |= {"rounds": count, "clients_per_round": CLIENTS}
    table["stages"][0]["strategy"]["layers"] = 2
    return table


def played(table: dict[str, Any]) -> Run:
    return fedloom.simulate(table, data=labelled_rows(), observer=Quiet())


def moved(run: Run) -> set[str]:
    start = run.prepared.model.initial(run.prepared.job.seed)
    before, after = (p.layout.unflatten(p.vector) for p in (start, run.params))
    blocks = {spec.name: spec.block for spec in start.layout}
    return {blocks[name] for name in before if not np.array_equal(before[name], after[name])}


def test_layers_move_one_after_the_other(text_model: dict[str, Path], tmp_path: Path) -> None:
    run = played(table_of(text_model["classify"], tmp_path))
    assert moved(run) == {"layer.0", "layer.1", "layer.2", "head"}  # 0, 0, 0, 1, 2
    assert np.isfinite(run.history["loss"][1:]).all()
    layout = run.params.layout
    layer, head = (layout.select((block,)).size for block in ("layer.0", "head"))
    up = list(run.history["bytes_up"])[1:]
    frame = 200  # bytes around what a client sends, at most
    for sent in up[:5]:
        assert 4 * CLIENTS * (layer + head) < sent < CLIENTS * (4 * (layer + head) + frame)
    for sent in up[5:]:
        assert sent < CLIENTS * (4 * head + frame)


def test_layers_above_the_last_one_stay(text_model: dict[str, Path], tmp_path: Path) -> None:
    table = table_of(text_model["classify"], tmp_path, rounds=3)  # 0, 0, 1
    assert moved(played(table)) == {"layer.0", "layer.1", "head"}


def test_a_schedule_beyond_what_may_train(text_model: dict[str, Path], tmp_path: Path) -> None:
    table = table_of(text_model["classify"], tmp_path)
    table["adapter"]["layers"] = [0]
    table["stages"][0]["strategy"]["depth"] = 3
    text = r"round 1: .*5 rounds come to layer.1; what may train: layer.0"
    with pytest.raises(StrategyError, match=text):
        played(table)


def test_the_same_bits_again(text_model: dict[str, Path], tmp_path: Path) -> None:
    first, again = (
        played(table_of(text_model["classify"], tmp_path / name, rounds=3)) for name in "ab"
    )
    assert np.array_equal(first.params.vector, again.params.vector)
