"""The recipe of FedOBD on a tiny model: blocks, bytes, and its two stages."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_jobs import labelled_rows

import fedloom
from fedloom.core.config import read_toml
from fedloom.core.errors import ConfigError
from fedloom.progress import Quiet
from fedloom.simulation.simulator import Run
from fedloom.sources import recipes

CLIENTS = 6
ROWS = labelled_rows(72, clients=CLIENTS)
SMALL: dict[str, Any] = {"name": "lora", "rank": 4}


def table_of(backbone: Path, folder: Path, **changes: Any) -> dict[str, Any]:
    table = read_toml(recipes()["fedobd"])
    table["backbone"] |= {"name": str(backbone), "max_tokens": 16}
    table["data"] = {"client": "client", "split": "split"}
    table["run"] = {"directory": str(folder), "workers": 1, "cache_gb": 0.0, "cache_disk_gb": 0.0}
    table["stages"][0] |= {"rounds": 4, "clients_per_round": 2}
    table["stages"][1] |= {"rounds": 2}
    for stage in table["stages"]:
        stage["local"]["epochs"] = 1
    return {**table, **changes}


def played(table: dict[str, Any]) -> Run:
    return fedloom.simulate(table, data=ROWS, observer=Quiet())


def dropping(table: dict[str, Any], **options: object) -> dict[str, Any]:
    table["stages"][0]["codec_up"] = {"name": "block-drop", **options}
    return table


@pytest.mark.parametrize("adapter", [SMALL, {"name": "full", "layers": [-1, -2]}], ids=str)
def test_both_stages_are_played_and_what_goes_up_is_small(
    text_model: dict[str, Path], tmp_path: Path, adapter: dict[str, Any]
) -> None:
    table = table_of(text_model["classify"], tmp_path, adapter=adapter)
    run = played(table)
    lines = list(run.history)[1:]
    assert [line.stage for line in lines] == ["dropout"] * 4 + ["whole"] * 2
    assert [line.accepted for line in lines] == [2] * 4 + [CLIENTS] * 2
    dense = 4 * run.params.layout.size
    for line in lines:
        assert not line.refused
        share = line.bytes_up / line.accepted / dense
        assert share < 0.4, line  # of a float32's 32 bits; the tiny model is mostly headers


def test_a_frame_never_has_more_bytes_than_the_budget(
    text_model: dict[str, Path], tmp_path: Path
) -> None:
    table = dropping(
        table_of(text_model["classify"], tmp_path, adapter=SMALL),
        budget=1500,
        inner={"name": "blockwise", "bits": 3},
    )
    for line in list(played(table).history)[1:5]:
        assert 0 < line.bytes_up <= line.accepted * 1500


def test_a_tensor_that_nobody_sent_stays_as_it_is(
    text_model: dict[str, Path], tmp_path: Path
) -> None:
    table = table_of(text_model["classify"], tmp_path, adapter=SMALL, codec_down="float32")
    table["stages"] = table["stages"][:1]
    table["stages"][0] |= {"rounds": 1, "clients_per_round": 1}
    run = played(dropping(table, rate=0.6, inner="float32"))
    layout = run.params.layout
    start = run.prepared.model.initial(0).vector
    moved = {
        spec.block
        for spec in layout
        if (layout.view(run.params.vector, spec.name) != layout.view(start, spec.name)).any()
    }
    assert moved
    assert moved < {spec.block for spec in layout}


def test_the_first_stage_ends_where_it_gains_nothing(
    text_model: dict[str, Path], tmp_path: Path
) -> None:
    table = table_of(text_model["classify"], tmp_path, adapter=SMALL)
    table["stages"][0] |= {"rounds": 50, "patience": 2, "min_gain": 1.0}
    run = played(table)
    assert [line.stage for line in run.history][1:] == ["dropout"] * 2 + ["whole"] * 2
    assert not run.summary.interrupted
    again = fedloom.simulate(table, data=ROWS, observer=Quiet(), resume=True)
    assert np.array_equal(again.params.vector, run.params.vector)


def test_a_budget_below_the_smallest_block_is_refused_before_anything_is_trained(
    text_model: dict[str, Path], tmp_path: Path
) -> None:
    table = table_of(text_model["classify"], tmp_path, adapter=SMALL)
    with pytest.raises(ConfigError, match=r"stage 'dropout': block-drop: budget = 50: .*smallest"):
        played(dropping(table, budget=50))
    assert not (tmp_path / "metrics.jsonl").exists()
