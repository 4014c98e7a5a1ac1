"""PEQA in a model: training its scales is training the stored ones."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from cohorts import CASES, CPU, Folders, Ragged, apart, cohort
from numpy.typing import NDArray

from fedloom.backbones.formats import SCHEMES
from fedloom.backbones.quantize import quantize
from fedloom.core.errors import ConfigError
from fedloom.core.registry import Component
from fedloom.core.types import LocalWork, Params
from fedloom.tuning.build import build_model
from fedloom.tuning.evaluate import evaluate
from fedloom.tuning.fused_model import FusedModel
from fedloom.tuning.learners.backprop import Backprop


def built(folder: Path, name: str, **options: str) -> FusedModel:
    component = Component("peqa", options)
    task = CASES[name].task
    model = build_model(folder, component, task, dtype=torch.float32, device=CPU)
    assert isinstance(model, FusedModel)
    return model


@pytest.mark.parametrize("scheme", ["int8", "int4-32"])
@pytest.mark.parametrize("name", ["bert", "gpt2-lm"])
def test_it_is_the_model_with_other_scales(
    model_folder: Folders, ragged: Ragged, tmp_path: Path, name: str, scheme: str
) -> None:
    case = CASES[name]
    small = quantize(case.folder(model_folder), tmp_path / "small", SCHEMES[scheme])
    model, other = built(small, name), built(small, name)
    scales = [spec for spec in model.layout if "peqa" in spec.tags]
    assert len(scales) == len(model.catalog.linears)
    assert all(len(spec.shape) == (1 if scheme == "int8" else 2) for spec in scales)
    start = model.initial(0)
    tensors: dict[str, NDArray[np.generic]] = {
        n: t.copy() for n, t in start.layout.unflatten(start.vector).items()
    }
    rng = np.random.default_rng(0)
    for spec in scales:
        # Halved, kept or doubled: bfloat16 holds what comes of it.
        packed = other.catalog.stored(spec.name.removesuffix(".scale"))
        assert packed is not None
        factor = torch.from_numpy(rng.choice([0.5, 1, 2], spec.shape)).to(packed.scale.dtype)
        tensors[spec.name] = (packed.scale * (factor - 1)).float().numpy()
        packed.scale.mul_(factor)  # in the other model's own memory
    moved = Params(model.layout, model.layout.flatten(tensors))
    examples = case.examples(ragged)
    found = evaluate(model.session(moved, ("*",), examples), moved, examples)
    merged = evaluate(other.session(start, ("*",), examples), start, examples)
    np.testing.assert_allclose(found.loss, merged.loss, rtol=2e-4, atol=2e-5)
    before = evaluate(model.session(start, ("*",), examples), start, examples)
    assert np.abs(before.loss - found.loss).max() > 1e-3


def test_a_cohort_is_its_clients_and_learns(
    model_folder: Folders, ragged: Ragged, tmp_path: Path
) -> None:
    case = CASES["bert"]
    small = quantize(case.folder(model_folder), tmp_path / "small", SCHEMES["int4-32"])
    model = built(small, "bert")
    params = model.initial(0)
    session = model.session(params, ("peqa",), case.examples(ragged))
    work = LocalWork(epochs=8, batch_size=8, lr=1e-4)
    together = Backprop().train(session, params, work, cohort())
    alone = [r for one in cohort() for r in Backprop().train(session, params, work, [one])]
    assert apart(together, alone) < 1e-4
    still = Backprop().train(session, params, replace(work, lr=1e-12), cohort())
    for learned, before in zip(together, still, strict=True):
        assert learned.metrics["loss"] < before.metrics["loss"]


def test_what_is_not_stored_in_fewer_bits(model_folder: Folders, tmp_path: Path) -> None:
    folder = CASES["bert"].folder(model_folder)
    text = "adapter peqa: .* is not stored in fewer bits; set backbone.quantization"
    with pytest.raises(ConfigError, match=text):
        built(folder, "bert")
