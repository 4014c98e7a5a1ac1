"""Folders of some blocks only: what they hold is what loading reads, and nothing else."""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from fused_models import CPU
from safetensors.torch import load_file, save_file
from torch import Tensor

from fedloom.backbones.fused import load_fused
from fedloom.backbones.portion import write_portion
from fedloom.core.component import Component
from fedloom.core.errors import ConfigError, ModelError
from fedloom.tuning.base import Task
from fedloom.tuning.build import build_model

Folders = dict[tuple[str, str], Path]
CLASSIFIER = "AutoModelForSequenceClassification"
SAVED = {
    "bert": ("bert", CLASSIFIER),
    "llama": ("llama", CLASSIFIER),
    "qwen2": ("qwen2", "AutoModelForCausalLM"),
    "gpt2": ("gpt2", "AutoModelForCausalLM"),
    "vit": ("vit", "AutoModelForImageClassification"),
}
HOME = {"embeddings", "layer.0", "final", "head"}


def tensors(value: object) -> Iterator[Tensor]:
    """Every tensor inside frozen values, in the order of their fields."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple):
        for one in value:
            yield from tensors(one)
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from tensors(getattr(value, field.name))


def loaded(folder: Path, held: set[str]) -> list[Tensor]:
    return list(tensors(load_fused(folder, dtype=torch.float32, device=CPU, held=held)))


def sharded(folder: Path, into: Path) -> Path:
    """The same model with every tensor in a file of its own."""
    into.mkdir()
    (into / "config.json").write_bytes((folder / "config.json").read_bytes())
    index: dict[str, str] = {}
    for i, (name, tensor) in enumerate(load_file(folder / "model.safetensors").items()):
        index[name] = f"model-{i}.safetensors"
        save_file({name: tensor}, into / index[name])
    told = json.dumps({"weight_map": index})
    (into / "model.safetensors.index.json").write_text(told)
    return into


@pytest.mark.parametrize("family", SAVED)
@pytest.mark.parametrize("held", [HOME, {"embeddings", "layer.0"}], ids=["home", "below"])
def test_a_portion_loads_as_the_whole_does(
    model_folder: Folders, tmp_path: Path, family: str, held: set[str]
) -> None:
    folder = model_folder[SAVED[family]]
    out = write_portion(folder, tmp_path / "portion", held)
    pairs = list(zip(loaded(folder, held), loaded(out, held), strict=True))
    read = [(a, b) for a, b in pairs if not a.is_meta]
    assert read
    assert all(torch.equal(a, b) for a, b in read)
    assert all(b.is_meta for a, b in pairs if a.is_meta)
    kept, whole = (load_file(f / "model.safetensors") for f in (out, folder))
    assert not [name for name in kept if ".1." in name]  # nothing of the other block
    assert len(kept) < len(whole)


@pytest.mark.parametrize("family", SAVED)
def test_the_same_portion_has_the_same_bytes(
    model_folder: Folders, tmp_path: Path, family: str
) -> None:
    folder = model_folder[SAVED[family]]
    first = write_portion(folder, tmp_path / "first", HOME)
    other = write_portion(sharded(folder, tmp_path / "shards"), tmp_path / "other", HOME)
    whole, again = ((f / "model.safetensors").read_bytes() for f in (first, other))
    assert whole == again
    assert sorted(p.name for p in other.iterdir()) == ["config.json", "model.safetensors"]


def test_all_blocks_are_all_that_is_read(model_folder: Folders, tmp_path: Path) -> None:
    folder = model_folder["bert", CLASSIFIER]
    every = HOME | {"layer.1", "layer.2"}
    kept = load_file(write_portion(folder, tmp_path / "all", every) / "model.safetensors")
    whole = load_file(folder / "model.safetensors")
    assert kept.keys() == whole.keys()
    assert all(torch.equal(kept[name], whole[name]) for name in whole)


def test_tied_heads_bring_the_embedding(model_folder: Folders, tmp_path: Path) -> None:
    # gpt2's head is its embedding: who has the head alone has that table too.
    folder = model_folder["gpt2", "AutoModelForCausalLM"]
    kept = load_file(write_portion(folder, tmp_path / "top", {"head"}) / "model.safetensors")
    assert "transformer.wte.weight" in kept
    below = write_portion(folder, tmp_path / "below", {"layer.0"})
    assert "transformer.wte.weight" not in load_file(below / "model.safetensors")


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_a_saved_classifier_is_of_the_head(
    model_folder: Folders, tmp_path: Path, family: str
) -> None:
    folder, lora = model_folder[family, CLASSIFIER], Component("lora", {"rank": 2})
    shards = sharded(folder, tmp_path / "shards")
    portion = write_portion(folder, tmp_path / "portion", HOME)
    starts = []
    for each, held in ((folder, None), (shards, None), (portion, HOME)):
        task = Task("classify", 3, "model")
        model = build_model(
            each, lora, task, dtype=torch.float32, device=CPU, engine="fused", held=held
        )
        starts.append(model.initial(0))
    assert len({start.vector.tobytes() for start in starts}) == 1
    assert len({start.layout.digest for start in starts}) == 1
    below = write_portion(folder, tmp_path / "below", {"embeddings", "layer.0"})
    names = load_file(below / "model.safetensors")
    assert not {"classifier.weight", "score.weight"} & names.keys()


def test_what_devices_read_comes_along(model_folder: Folders, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for path in model_folder["bert", CLASSIFIER].iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    wanted = ("tokenizer.json", "vocab.txt", "chat.jinja", "spiece.model")
    for name in (*wanted, "modeling_x.py", "pytorch_model.bin", ".hidden.json"):
        (folder / name).write_text("{}")
    (folder / "adapter_model.safetensors").write_bytes(b"")
    (folder / "nested.json").mkdir()
    out = write_portion(folder, tmp_path / "out", HOME)
    expected = {*wanted, "config.json", "model.safetensors"}
    assert {path.name for path in out.iterdir()} == expected


def test_a_portion_that_is_there_is_left_as_it_is(model_folder: Folders, tmp_path: Path) -> None:
    folder, out = model_folder["bert", CLASSIFIER], tmp_path / "portion"
    write_portion(folder, out, HOME)
    before = (out / "model.safetensors").stat()
    assert write_portion(folder, out, HOME) == out
    assert (out / "model.safetensors").stat().st_ino == before.st_ino


def test_a_block_that_the_model_lacks(model_folder: Folders, tmp_path: Path) -> None:
    text = r"block 'layer\.3': this model has embeddings, layer\.0 to layer\.2, final, head"
    with pytest.raises(ConfigError, match=text):
        write_portion(model_folder["bert", CLASSIFIER], tmp_path / "out", {"layer.3"})
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no config\.json"):
        write_portion(tmp_path, tmp_path / "out", HOME)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "t5"}))
    with pytest.raises(ModelError, match="no fused blocks"):
        write_portion(tmp_path, tmp_path / "out", HOME)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(ModelError, match=r"neither model\.safetensors nor"):
        write_portion(tmp_path, tmp_path / "out", HOME)


def test_a_tensor_that_is_missing_is_noticed_now(model_folder: Folders, tmp_path: Path) -> None:
    folder = sharded(model_folder["bert", CLASSIFIER], tmp_path / "model")
    index = folder / "model.safetensors.index.json"
    files = json.loads(index.read_text())["weight_map"]
    gone = next(name for name in files if "layer.0." in name and "query.weight" in name)
    save_file({"other": torch.zeros(1)}, folder / files[gone])
    with pytest.raises(ModelError, match="no tensor"):
        write_portion(folder, tmp_path / "out", HOME)
    assert not (tmp_path / "out").exists()
