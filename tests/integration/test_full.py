"""Layers trained in full: as transformers' own modules with the same parameters unfrozen."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cohorts import CASES, CPU, Case, Folders, Ragged, apart, cohort, start, train_at_once
from numpy.typing import NDArray
from safetensors.torch import load_file

from fedloom.core.errors import ConfigError
from fedloom.core.registry import Component
from fedloom.core.types import LocalWork, Params
from fedloom.tuning.base import CohortModel
from fedloom.tuning.build import build_model
from fedloom.tuning.capacity import measure_capacity
from fedloom.tuning.evaluate import evaluate
from fedloom.tuning.export import export_adapter
from fedloom.tuning.fused_model import FusedModel
from fedloom.tuning.learners.local_batches import local_batches
from fedloom.tuning.padded import padded_inputs, padded_losses
from fedloom.tuning.peft_format import arguments_of, auto_of

WORK = LocalWork(epochs=2, batch_size=4, lr=0.05, momentum=0.9, clip_norm=1.0)
NAMES = ["bert", "gpt2", "llama", "qwen2-lm", "vit"]


def loaded(case: Case, folders: Folders, tensors: dict[str, torch.Tensor]) -> Any:
    """The transformers model with some tensors put in place, and only those trained."""
    import transformers

    options = {"num_labels": 3} if arguments_of(case.task) else {}
    auto = getattr(transformers, auto_of(case.task))
    model = auto.from_pretrained(case.folder(folders), **options).eval()
    assert not model.load_state_dict(tensors, strict=False).unexpected_keys
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in tensors)
    return model


def plain_loop(
    model: CohortModel, case: Case, folders: Folders, ragged: Ragged
) -> list[NDArray[np.float32]]:
    """The delta of each client, trained alone by torch."""
    params, examples = start(model), case.examples(ragged)
    named = params.layout.unflatten(params.vector)
    deltas = []
    for one in cohort():
        plain = loaded(case, folders, {n: torch.from_numpy(t.copy()) for n, t in named.items()})
        trained = [p for p in plain.parameters() if p.requires_grad]
        optimizer = torch.optim.SGD(trained, lr=WORK.lr, momentum=WORK.momentum)
        store = model.session(params, (), examples).store(params, 1)
        for batch in local_batches(one, WORK):
            inputs = padded_inputs(examples, [batch], pad=0, device=CPU)
            optimizer.zero_grad()
            found = padded_losses(
                plain(**inputs),
                inputs,
                store=store,
                task=case.task,
                examples=examples,
                rows=[batch],
            )
            found.loss.sum().backward()
            torch.nn.utils.clip_grad_norm_(trained, WORK.clip_norm)
            optimizer.step()
        state = plain.state_dict()
        deltas.append(params.layout.flatten({n: state[n].numpy() for n in named}) - params.vector)
    return deltas


@pytest.mark.parametrize("name", NAMES)
def test_a_plain_loop_over_transformers(model_folder: Folders, ragged: Ragged, name: str) -> None:
    case = CASES[name]
    model = case.build(model_folder, "full")
    found = train_at_once(model, case.examples(ragged), WORK)
    for result, want in zip(found, plain_loop(model, case, model_folder, ragged), strict=True):
        assert np.linalg.norm(result.delta - want) < 1e-5 * np.linalg.norm(want)


def trained_in(name: str, folders: Folders, options: dict[str, Any]) -> set[str]:
    layout = CASES[name].build(folders, Component("full", options)).layout
    return {spec.name for spec in layout if spec.block != "head"}


def test_every_tensor_of_the_chosen_layers_trains(model_folder: Folders) -> None:
    import transformers

    folder = CASES["bert"].folder(model_folder)
    model = transformers.BertForSequenceClassification.from_pretrained(folder)
    whole = {n for n, _ in model.named_parameters() if ".layer." in n}
    assert trained_in("bert", model_folder, {}) == whole
    top = {n for n in whole if ".layer.2." in n}
    assert trained_in("bert", model_folder, {"layers": (-1,)}) == top
    norms = {n for n in top if "LayerNorm" in n}
    biases = {n for n in top - norms if n.endswith("bias")}
    options = {"layers": (-1,), "norms": False, "biases": False}
    assert trained_in("bert", model_folder, options) == top - norms - biases
    options = {"layers": (-1,), "weights": False}
    assert trained_in("bert", model_folder, options) == norms | biases


def test_nothing_to_train_is_refused(model_folder: Folders) -> None:
    options = {"weights": False, "biases": False, "norms": False}
    with pytest.raises(ConfigError, match="nothing trains; turn weights, biases or norms on"):
        CASES["bert"].build(model_folder, Component("full", options))
    with pytest.raises(ConfigError, match=r"adapter.layers = 7: the backbone has layers 0 to 2"):
        CASES["bert"].build(model_folder, Component("full", {"layers": (7,)}))


@pytest.mark.parametrize("name", NAMES)
def test_the_start_is_the_backbone_and_costs_nothing(
    model_folder: Folders, ragged: Ragged, name: str
) -> None:
    case = CASES[name]
    model = case.build(model_folder, "full")
    params = model.initial(0)
    examples = case.examples(ragged)
    bare = case.build(model_folder, "head") if name != "qwen2-lm" else None
    if bare is not None:
        without = evaluate(bare.session(bare.initial(0), (), examples), bare.initial(0), examples)
        here = evaluate(model.session(params, (), examples), params, examples)
        assert np.array_equal(here.loss, without.loss)
    assert isinstance(model, FusedModel)
    active = model.active(params, ())
    assert {spec.block for part in active for spec in part.specs} <= {"head"}


@pytest.mark.parametrize("name", NAMES)
def test_what_is_exported_loads_into_the_plain_model(
    model_folder: Folders, ragged: Ragged, tmp_path: Path, name: str
) -> None:
    case = CASES[name]
    model = case.build(model_folder, "full")
    params, examples = start(model), case.examples(ragged).take(np.arange(6))
    readme = (export_adapter(model, params, tmp_path) / "README.md").read_text()
    assert f"{auto_of(case.task)}.from_pretrained(BACKBONE" in readme
    plain = loaded(case, model_folder, load_file(tmp_path / "fedloom.safetensors"))
    here = evaluate(model.session(params, (), examples), params, examples).loss
    for row in range(6):
        rows = [np.array([row])]
        inputs = padded_inputs(examples, rows, pad=0, device=CPU)
        store = model.session(params, (), examples).store(params, 1)
        with torch.no_grad():
            found = padded_losses(
                plain(**inputs), inputs, store=store, task=case.task, examples=examples, rows=rows
            )
        np.testing.assert_allclose(here[row], float(found.loss), rtol=1e-5, atol=1e-5)


def test_a_bfloat16_backbone_learns_what_float32_learns(
    model_folder: Folders, ragged: Ragged
) -> None:
    case = CASES["bert"]
    whole = case.build(model_folder, "full")
    half = build_model(
        case.folder(model_folder), Component("full"), case.task, dtype=torch.bfloat16, device=CPU
    )
    examples = case.examples(ragged)
    moved = train_at_once(half, examples, WORK)
    for found, want in zip(moved, train_at_once(whole, examples, WORK), strict=True):
        along = float(found.delta @ want.delta)
        assert along > 0.98 * np.linalg.norm(found.delta) * np.linalg.norm(want.delta)


def test_layers_of_an_earlier_stage_keep_what_they_learned(
    model_folder: Folders, ragged: Ragged
) -> None:
    # Layers below the one that trains are changed, and fixed: they count, and get no gradient.
    case, examples = CASES["bert"], CASES["bert"].examples(ragged)
    fused = case.build(model_folder, "full", engine="fused")
    generic = case.build(model_folder, "full", engine="transformers")
    train = ("layer.1", "head")
    found = train_at_once(fused, examples, WORK, train)
    assert found[0].layout == fused.layout.select(train)
    assert apart(found, train_at_once(generic, examples, WORK, train)) < 1e-5


def test_fewer_clients_fit_where_they_train_more(model_folder: Folders) -> None:
    # A client takes 5 * 4 bytes for each of its numbers; rows may take a quarter of 16 MiB.
    few, many = (CASES["bert"].build(model_folder, name) for name in ("lora", "full"))
    room = 2**24 / 2**30
    found = [measure_capacity(m, CPU, workers=1, memory_gb=room).clients for m in (few, many)]
    assert found == [2**24 // 4 // (20 * m.layout.size) for m in (few, many)]
    assert found[1] < found[0] / 8
    assert many.bytes_per_token > few.bytes_per_token


def test_a_change_is_told_from_the_start(model_folder: Folders) -> None:
    model = CASES["bert"].build(model_folder, "full")
    assert isinstance(model, FusedModel)
    params = model.initial(0)
    layer = params.layout.select(("layer.1",))
    moved = params.layout.gather(params.vector, layer) + np.float32(1e-3)
    changed = Params(params.layout, params.layout.scatter(params.vector, layer, moved))
    active = model.active(changed, ())
    assert {s.block for part in active for s in part.specs} == {"layer.1", "head"}
