"""Offsite tuning on tiny models: what trains, what is put back, and into what."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from small_jobs import causal_table, classify_table, labelled_rows

import fedloom
from fedloom.core.errors import ConfigError, ModelError
from fedloom.core.job import job_from
from fedloom.progress import Quiet
from fedloom.server.setup import plan_of
from fedloom.simulation.simulator import Run
from fedloom.tuning.export import load_adapter
from fedloom.tuning.plug_in import whole_of


def table_of(
    backbone: Path, folder: Path, adapter: str = "full", **emulator: Any
) -> dict[str, Any]:
    """Layers 0 and 2 of three train; with ``keep = 1`` the one between is there, too."""
    table = classify_table(backbone)
    table["adapter"] = {"name": adapter, "layers": [0, -1]}
    table["stages"] = [{**stage, "rounds": 1} for stage in table["stages"]]
    table["run"] |= {"directory": str(folder / "run")}
    emulator = {"left": 1, "right": 1, "folder": str(folder / "emulator"), **emulator}
    table["backbone"] |= {"emulator": emulator}
    return table


def played(table: dict[str, Any]) -> Run:
    return fedloom.simulate(table, data=labelled_rows(), observer=Quiet())


@pytest.mark.parametrize("adapter", ["full", "lora"])
def test_with_nothing_lost_all_is_as_without(
    text_model: dict[str, Path], tmp_path: Path, adapter: str
) -> None:
    run = played(table_of(text_model["classify"], tmp_path / "a", adapter, keep=1.0))
    plain = table_of(text_model["classify"], tmp_path / "b", adapter)
    del plain["backbone"]["emulator"]
    same = played(plain)
    assert np.array_equal(run.params.vector, same.params.vector)
    assert run.summary.references["plug-in"] == run.summary.after == same.summary.after
    kept, other = (load_adapter(r.summary.adapter or Path())[0] for r in (run, same))
    assert kept.layout.digest == other.layout.digest
    assert np.array_equal(kept.vector, other.vector)


def test_the_top_goes_where_it_is_in_the_whole_model(
    text_model: dict[str, Path], tmp_path: Path
) -> None:
    # of four layers in all: 0, one of 1 and 2, 3; what trained as layer 2 is put into layer 3
    backbone = deeper(text_model["classify"], tmp_path / "deep")
    run = played(table_of(backbone, tmp_path, keep=0.5))
    assert {spec.block for spec in run.params.layout} == {"layer.0", "layer.2", "head"}
    params, classes = load_adapter(run.summary.adapter or Path())
    assert {spec.block for spec in params.layout} == {"layer.0", "layer.3", "head"}
    assert classes == run.prepared.corpus.classes
    trained = run.params.layout.unflatten(run.params.vector)
    for name, tensor in params.layout.unflatten(params.vector).items():
        assert np.array_equal(tensor, trained[name.replace(".3.", ".2.")])
    assert run.summary.references.keys() == {"plug-in"}
    assert run.summary.references["plug-in"] != run.summary.after


def deeper(folder: Path, into: Path) -> Path:
    """The model with its last layer once more on top."""
    into.mkdir(parents=True)
    for path in folder.iterdir():
        (into / path.name).write_bytes(path.read_bytes())
    tensors = load_file(folder / "model.safetensors")
    top = {n.replace(".2.", ".3."): t.clone() for n, t in tensors.items() if ".2." in n}
    save_file({**tensors, **top}, into / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (into / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 4}))
    return into


def test_a_language_model_is_also_judged_as_it_was(
    text_model: dict[str, Path], tmp_path: Path
) -> None:
    table = causal_table(text_model["causal-lm"])
    table |= {"rounds": 1, "adapter": {"name": "lora", "layers": [0]}}
    table["run"] |= {"directory": str(tmp_path / "run")}
    table["backbone"] |= {"emulator": {"left": 1, "bits": 2, "folder": str(tmp_path / "emulator")}}
    run = played(table)
    assert run.summary.references.keys() == {"plug-in", "original"}
    assert all("perplexity" in found for found in run.summary.references.values())
    assert run.summary.references["original"] != run.summary.before


def test_devices_are_given_the_emulator_alone(text_model: dict[str, Path], tmp_path: Path) -> None:
    table = table_of(text_model["classify"], tmp_path, keep=0.5, bits=4)
    rows = labelled_rows()
    table["data"]["classes"] = sorted({row["label"] for row in rows})
    table["server"] = {"directory": str(tmp_path / "state")}
    plan = plan_of(job_from(table), lambda text: None)
    assert {path.parent for path in plan.files.values()} == {tmp_path / "emulator"}
    assert plan.finishing is not None
    finished = plan.finishing(plan.start, tmp_path / "adapter")
    assert (finished.test, finished.references) == ({}, {})
    assert load_adapter(tmp_path / "adapter")[0].layout.size == plan.start.layout.size


def test_a_distilled_emulator_is_another_model_to_tune(
    text_model: dict[str, Path], tmp_path: Path
) -> None:
    (tmp_path / "own.txt").write_text("\n".join(row["text"] for row in labelled_rows(40)))
    backbone, losses = deeper(text_model["classify"], tmp_path / "deep"), []
    for steps in (0, 20):
        table = table_of(backbone, tmp_path / f"{steps}", keep=0.5)
        table["backbone"]["emulator"] |= {"distill": steps, "lr": 1e-3}
        table["backbone"]["emulator"] |= {"text": str(tmp_path / "own.txt")}
        run = played(table)
        assert run.summary.references.keys() == {"plug-in"}
        losses.append(run.summary.after["loss"])
    assert losses[0] != losses[1]


@pytest.mark.parametrize("layers", [[], [0, 1], [0, 2]])
def test_layers_that_stand_for_others_do_not_train(
    text_model: dict[str, Path], tmp_path: Path, layers: list[int]
) -> None:
    table = table_of(text_model["classify"], tmp_path)
    table["adapter"]["layers"] = layers
    text = r"adapter.layers = \[.*\]: with backbone.emulator: expected some or all of \[0, -1\]"
    with pytest.raises(ConfigError, match=text):
        played(table)


def test_a_split_model_has_no_emulator(text_model: dict[str, Path], tmp_path: Path) -> None:
    table = table_of(text_model["classify"], tmp_path)
    table["split"] = {"mode": "v1", "bottom": 1, "top": 1}
    with pytest.raises(ConfigError, match=r"split\.mode = 'v1': with backbone\.emulator"):
        played(table)


def test_a_model_that_was_exchanged(text_model: dict[str, Path], tmp_path: Path) -> None:
    backbone = deeper(text_model["classify"], tmp_path / "model")
    run = played(table_of(backbone, tmp_path))
    weights = backbone / "model.safetensors"
    weights.write_bytes((text_model["classify"] / "model.safetensors").read_bytes())
    with pytest.raises(ModelError, match=r"an emulator of another model than .*model is now"):
        whole_of(
            run.prepared.job,
            run.prepared.folder,
            ["a"],
            dtype=torch.float32,
            device=torch.device("cpu"),
        )
