"""Emulators: which layers, under which names, how far from the whole model, and what is refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from fedloom.backbones.emulator import (
    compressed,
    emulator_of,
    in_layer,
    read_note,
    rounded,
    smallest,
)
from fedloom.backbones.fused import load_fused
from fedloom.core.emulation import EmulatorConfig
from fedloom.core.errors import ModelError

Folders = dict[tuple[str, str], Path]
SAVED = {
    "bert": ("bert", "AutoModelForSequenceClassification"),
    "llama": ("llama", "AutoModelForCausalLM"),
    "gpt2": ("gpt2", "AutoModelForCausalLM"),
}


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return dict(load_file(folder / "model.safetensors"))


@pytest.fixture
def bert(model_folder: Folders) -> Path:
    return model_folder[SAVED["bert"]]


@pytest.mark.parametrize("family", SAVED)
def test_with_nothing_dropped_it_is_the_model(
    model_folder: Folders, tmp_path: Path, family: str
) -> None:
    folder = model_folder[SAVED[family]]
    how = EmulatorConfig(left=1, keep=1.0, folder=str(tmp_path / "emulator"))
    found, whole = weights(emulator_of(folder, how)), weights(folder)
    assert found.keys() == whole.keys()
    assert all(torch.equal(found[name], whole[name]) for name in whole)
    configs = [json.loads((f / "config.json").read_text()) for f in (folder, Path(how.folder))]
    assert configs[0] == configs[1]


def test_layers_take_new_names(bert: Path, tmp_path: Path) -> None:
    # of three layers: 0, then of 1 and 2 the first ((2 - 1) // 2 = 0), which is 1
    how = EmulatorConfig(left=1, keep=0.5, folder=str(tmp_path / "left"))
    out = emulator_of(bert, how)
    assert read_note(out).layers == (0, 1)
    # of 0 and 1 the first, then 2, which is now called 1
    out = emulator_of(bert, EmulatorConfig(right=1, keep=0.5, folder=str(tmp_path / "right")))
    assert read_note(out).layers == (0, 2)
    found, whole = weights(out), weights(bert)
    for name, tensor in whole.items():
        if ".layer.1." in name:
            continue
        assert torch.equal(found.pop(name.replace(".layer.2.", ".layer.1.")), tensor)
    assert not found
    config = json.loads((out / "config.json").read_text())
    assert config["num_hidden_layers"] == 2
    assert load_fused(out, dtype=torch.float32, device=torch.device("cpu")).shape.depth == 2


def test_what_is_listed_for_each_layer_is_picked(bert: Path, tmp_path: Path) -> None:
    folder = changed(bert, tmp_path / "model", lambda c: {**c, "layer_types": ["a", "b", "c"]})
    out = emulator_of(folder, EmulatorConfig(right=1, keep=0.5, folder=str(tmp_path / "out")))
    assert json.loads((out / "config.json").read_text())["layer_types"] == ["a", "c"]


def test_only_matrices_between_the_ends_are_compressed(bert: Path, tmp_path: Path) -> None:
    folder = str(tmp_path / "out")
    how = EmulatorConfig(left=1, right=1, keep=1.0, prune=0.5, bits=4, folder=folder)
    found, whole = weights(emulator_of(bert, how)), weights(bert)
    for name, tensor in whole.items():
        between = ".layer.1." in name and tensor.ndim == 2
        expected = compressed(tensor, 0.5, 4) if between else tensor
        assert torch.equal(found[name], expected)
        assert torch.equal(expected, tensor) != between
    assert not list(Path(folder).glob("changed-*"))


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_rounding_is_off_by_half_a_step_at_most(bits: int) -> None:
    weight = torch.randn(5, 40, generator=torch.Generator().manual_seed(1)).double()
    weight[2] += 3.0  # a row of one sign
    weight[3] = 0.25
    found = rounded(weight, bits)
    bound = (weight.amax(1) - weight.amin(1)) / (2 * (2**bits - 1))
    assert ((found - weight).abs().amax(1) <= bound * (1 + 1e-9)).all()
    assert torch.equal(found[3], weight[3])
    assert all(len(row.unique()) <= 2**bits for row in found)


def test_two_bits_by_hand() -> None:
    # levels 0, 1, 2, 3
    row = torch.tensor([[0.0, 0.4, 1.6, 3.0]])
    assert rounded(row, 2).tolist() == [[0.0, 0.0, 2.0, 3.0]]


def test_the_smallest_numbers_become_zero_and_stay_so() -> None:
    matrix = torch.tensor([[-4.0, 1.0], [0.5, -3.0]])
    assert smallest(matrix, 0.5).tolist() == [[False, True], [True, False]]
    assert smallest(matrix, 0.49).sum() == 1  # of four numbers 1.96: one
    assert compressed(matrix, 0.5, 0).tolist() == [[-4.0, 0.0], [0.0, -3.0]]
    # the levels of two bits are -4, -7/3, ... in the first row: zero is none of them
    assert compressed(matrix, 0.5, 2)[0].tolist() == [-4.0, 0.0]
    assert compressed(matrix.bfloat16(), 0.5, 2).dtype == torch.bfloat16


def test_the_number_of_the_layer_alone_changes() -> None:
    assert in_layer("h.1.mlp.1.weight", 1, 7) == "h.7.mlp.1.weight"
    assert in_layer("model.layers.11.x", 1, 7) == "model.layers.11.x"


def changed(
    folder: Path, into: Path, how: Callable[[dict[str, Any]], dict[str, Any]], **more: torch.Tensor
) -> Path:
    """The model with another configuration, and more tensors."""
    into.mkdir()
    table = how(json.loads((folder / "config.json").read_text()))
    (into / "config.json").write_text(json.dumps(table))
    save_file({**weights(folder), **more}, into / "model.safetensors")
    return into


def test_an_emulator_of_another_kind_is_refused(bert: Path, tmp_path: Path) -> None:
    folder = str(tmp_path / "emulator")
    out = emulator_of(bert, EmulatorConfig(left=1, keep=0.5, folder=folder))
    assert emulator_of(bert, EmulatorConfig(left=1, keep=0.5, folder=folder)) == out
    text = r"emulator: an emulator with layers = \(0, 1\), where the job makes \(0, 1, 2\); name"
    with pytest.raises(ModelError, match=text):
        emulator_of(bert, EmulatorConfig(left=1, keep=1.0, folder=folder))
    with pytest.raises(ModelError, match="with bits = 0, where the job makes 4"):
        emulator_of(bert, EmulatorConfig(left=1, keep=0.5, bits=4, folder=folder))
    other = changed(bert, tmp_path / "other", dict, more=torch.zeros(1))
    with pytest.raises(ModelError, match=r"an emulator of another model \([0-9a-f]{12}, not"):
        emulator_of(other, EmulatorConfig(left=1, keep=0.5, folder=folder))
    note = json.loads((out / "emulator.json").read_text())
    (out / "emulator.json").write_text(json.dumps({**note, "format": 2}))
    text = "an emulator of version 2; this fedloom makes version 1"
    with pytest.raises(ModelError, match=text):
        emulator_of(bert, EmulatorConfig(left=1, keep=0.5, folder=folder))


def test_what_is_no_emulator(bert: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no emulator: emulator\.json is missing or damaged"):
        emulator_of(bert, EmulatorConfig(left=1, folder=str(bert)))
    out = emulator_of(bert, EmulatorConfig(left=1, folder=str(tmp_path / "emulator")))
    with pytest.raises(ModelError, match="it is itself an emulator; name the whole model"):
        emulator_of(out, EmulatorConfig(left=1, folder=str(tmp_path / "again")))
    odd = changed(bert, tmp_path / "odd", lambda c: {**c, "num_hidden_layers": 7})
    with pytest.raises(ModelError, match=r"not one stack of layers, as many as its config\.json"):
        emulator_of(odd, EmulatorConfig(left=1))


def test_it_is_kept_in_the_cache(
    bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEDLOOM_CACHE", str(tmp_path))
    made = [emulator_of(bert, EmulatorConfig(left=1, keep=k)) for k in (0.5, 1.0, 0.5)]
    assert made[0] == made[2] != made[1]
    assert made[0].parent == tmp_path / "emulators"
