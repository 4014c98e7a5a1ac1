"""Prefixes of a cohort: their gradients, their independence, and their form in peft."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cohorts import CASES, Case, Folders, Ragged, apart, start, train_at_once, train_one_by_one
from torch import Tensor

from fedloom.core.errors import ConfigError
from fedloom.core.registry import Component
from fedloom.core.types import LocalWork
from fedloom.tuning.base import Task
from fedloom.tuning.deep_prompts import Prefix
from fedloom.tuning.evaluate import evaluate
from fedloom.tuning.examples import TextExamples
from fedloom.tuning.export import export_adapter

PREFIX = Component("prefix", {"tokens": 3})
MODELS = ("bert", "bert-mean", "llama", "qwen2-lm")
# What peft and transformers use of each other.
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")


@pytest.mark.parametrize("name", MODELS)
def test_at_once_is_one_by_one(model_folder: Folders, ragged: Ragged, name: str) -> None:
    case = CASES[name]
    model, examples = case.build(model_folder, PREFIX), case.examples(ragged)
    work = LocalWork(epochs=2, batch_size=4, lr=0.5)
    found = train_at_once(model, examples, work)
    assert apart(found, train_one_by_one(model, examples, work)) < 1e-4


@pytest.mark.parametrize("name", MODELS)
def test_gradients_are_slopes(model_folder: Folders, ragged: Ragged, name: str) -> None:
    # Along z = grad / |grad| the loss climbs by true . grad / |grad|, which is |grad| exactly if
    # what is called grad has the true gradient's share in its own direction; central differences.
    case = CASES[name]
    model, examples = case.build(model_folder, PREFIX), case.examples(ragged)
    params = start(model)
    session = model.session(params, ("prefix",), examples)
    rows = [np.arange(5), np.arange(5, 13)]
    store = session.store(params, 2)
    session.losses(store, rows).loss.sum().backward()
    length = store.grad.norm(dim=1)
    z = store.grad / length[:, None]

    def at(h: float) -> Tensor:
        moved = session.store(params, 2)
        moved.values = moved.values + h * z
        with torch.no_grad():
            return session.losses(moved, rows).loss

    slopes = (at(0.05) - at(-0.05)) / 0.1
    torch.testing.assert_close(length, slopes, rtol=0.01, atol=0)
    assert float(length.min()) > 1e-3


def test_peft_gives_the_same_losses(model_folder: Folders, ragged: Ragged, tmp_path: Path) -> None:
    import peft
    import transformers

    case = CASES["qwen2-lm"]
    examples = case.examples(ragged).take(np.arange(0, 40, 5))
    assert isinstance(examples, TextExamples)
    model = case.build(model_folder, PREFIX)
    params = start(model)
    export_adapter(model, params, tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["peft_type"] == "PREFIX_TUNING"
    base = transformers.AutoModelForCausalLM.from_pretrained(case.folder(model_folder))
    loaded: Any = peft.PeftModel.from_pretrained(base, tmp_path).eval()
    here = evaluate(model.session(params, (), examples), params, examples).loss
    there = []
    for row in range(len(examples)):
        ids = torch.from_numpy(examples.ids(row).astype(np.int64))[None]
        first = max(examples.prompt_length(row), 1)
        with torch.no_grad():
            logits = loaded(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
        loss = torch.nn.functional.cross_entropy(logits[0, first - 1 : -1], ids[0, first:])
        there.append(float(loss))
    np.testing.assert_allclose(here, there, rtol=1e-5, atol=1e-5)


def test_a_classifiers_prefixes_are_in_our_file_only(model_folder: Folders, tmp_path: Path) -> None:
    for name in ("bert-mean", "llama"):
        model = CASES[name].build(model_folder, PREFIX)
        export_adapter(model, start(model), tmp_path / name)
        files = {path.name for path in (tmp_path / name).iterdir()}
        assert files == {"README.md", "fedloom.safetensors"}


def test_tensors_of_a_block_are_its_keys_and_values(model_folder: Folders) -> None:
    model = CASES["bert-mean"].build(model_folder, PREFIX)
    specs = model.layout.select(("prefix",)).specs
    assert [spec.name for spec in specs[:2]] == [
        "encoder.layer.0.attention.self.prefix.keys",
        "encoder.layer.0.attention.self.prefix.values",
    ]
    assert {spec.shape[0] for spec in specs} == {3}
    assert [spec.block for spec in specs] == [
        b for b in ("layer.0", "layer.1", "layer.2") for _ in range(2)
    ]


def test_the_start_has_the_deviation_that_is_asked_for(model_folder: Folders) -> None:
    # Uniform in +-a has the deviation a / sqrt 3.
    model = CASES["bert-mean"].build(model_folder, Component("prefix", {"start": 2.0}))
    params = model.initial(0)
    part = model.layout.select(("prefix",))
    values = params.layout.gather(params.vector, part)
    assert float(np.abs(values).max()) <= 2 * 3**0.5
    assert float(values.std()) == pytest.approx(2.0, rel=0.05)


@pytest.mark.parametrize("case", [CASES["gpt2"], CASES["vit"]])
def test_other_families_cannot_have_them(model_folder: Folders, case: Case) -> None:
    with pytest.raises(ConfigError, match=r"prefix: .* models; bert, llama, qwen2 can have it"):
        case.build(model_folder, PREFIX)


def test_the_generic_engine_cannot_have_them(model_folder: Folders) -> None:
    case = Case("bert", "AutoModel", Task("classify", 3, "mean"))
    with pytest.raises(ConfigError, match="prefix: it has a batched form on the fused engine only"):
        case.build(model_folder, PREFIX, engine="transformers")


@pytest.mark.parametrize(("options", "text"), [({"tokens": 0}, "tokens"), ({"start": -1}, "start")])
def test_options_out_of_range(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=rf"adapter\.{text}"):
        Prefix(**options)
