"""QLoRA: peft's adapters, and ours, over layers in bitsandbytes' NF4."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from cohorts import CASES, CPU, Folders, Ragged, apart, cohort, start
from small_jobs import classify_table
from torch import Tensor, nn
from torch.nn import functional

from fedloom.backbones.formats import NF4, SCHEMES
from fedloom.backbones.four_bit import dense_of, store_layers, stored_bytes, weight_count
from fedloom.backbones.huggingface import load
from fedloom.backbones.schemes import pack
from fedloom.core.errors import ConfigError
from fedloom.core.registry import Component
from fedloom.core.types import LocalWork
from fedloom.progress import Quiet
from fedloom.simulation.simulator import simulate
from fedloom.sources import job_of
from fedloom.tuning.base import CohortModel
from fedloom.tuning.build import build_model, model_of
from fedloom.tuning.evaluate import evaluate
from fedloom.tuning.learners.backprop import Backprop
from fedloom.tuning.prepare import folder_of

pytest.importorskip("bitsandbytes")
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")

FIXTURE = Path(__file__).parents[1] / "fixtures" / "text_era.jsonl.gz"
SIZES = {"vocab_size": 120, "pad_token_id": 0, "num_labels": 3}
BERT = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
}
WIDE: dict[str, dict[str, int]] = {  # rows of whole groups of 64
    "bert": BERT,
    "gpt2": {"n_embd": 64, "n_layer": 2, "n_head": 4, "bos_token_id": 1, "eos_token_id": 2},
    "qwen2": {**BERT, "num_hidden_layers": 2, "num_key_value_heads": 2},
}
QLORA = Component("peft", {"method": "LORA", "r": 4, "target_modules": ("query", "value")})


@pytest.fixture(scope="module")
def wide_folder(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    """Small random models by (family, auto class)."""
    found: Folders = {}
    for family, auto in {(case.family, case.auto) for case in CASES.values()}:
        if family in WIDE:
            config = transformers.AutoConfig.for_model(family, **SIZES, **WIDE[family])
            torch.manual_seed(11)
            model = getattr(transformers, auto).from_config(config)
            found[family, auto] = tmp_path_factory.mktemp(f"{family}-{auto}")
            model.save_pretrained(found[family, auto])
    return found


def one_layer(weight: Tensor, bias: Tensor | None = None) -> Any:
    """A linear map in NF4."""
    rows, columns = weight.shape
    linear = nn.Linear(columns, rows, bias=bias is not None)
    linear.weight.data, model = weight.clone(), nn.ModuleDict({"layer": nn.ModuleList([linear])})
    if bias is not None:
        linear.bias.data = bias
    store_layers(model.requires_grad_(False))
    return model.get_submodule("layer.0")


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_numbers_are_those_of_our_format() -> None:
    weight = drawn(48, 256)
    ours, theirs = pack(weight, SCHEMES["nf4-64"]).whole(), dense_of(one_layer(weight))
    # Ours rounds scales by 2^-9 of them at most; where that moves a number over the middle of two
    # levels, it goes to the other one, and is as near to what it was.
    off = ((ours - weight).norm(), (theirs - weight).norm())
    assert float(off[0] / off[1]) == pytest.approx(1, abs=2e-3)
    moved = (ours - theirs).abs() > 2**-8 * theirs.abs()
    assert float(moved.float().mean()) < 5e-3
    groups = weight.view(48, 4, 64)
    exact = groups / groups.abs().amax(-1, keepdim=True) * 2.0 ** torch.arange(4.0)[:, None]
    same = exact.flatten(1)  # scales that bfloat16 holds: every number is the same
    found, expected = dense_of(one_layer(same)), pack(same, SCHEMES["nf4-64"]).whole()
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)
    levels = torch.tensor(NF4).repeat(4)[None]
    torch.testing.assert_close(dense_of(one_layer(levels)), levels, rtol=0, atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_products_and_gradients_are_those_of_what_is_stored(dtype: torch.dtype) -> None:
    weight, bias = drawn(48, 128).to(dtype), drawn(48, seed=1).to(dtype)
    layer = one_layer(weight, bias)
    whole = dense_of(layer)
    for rows in (1, 7):  # one row alone has a kernel of its own
        for grad in (False, True, False):  # nor does looking at it without a gradient change it
            x = drawn(rows, 128, seed=2).to(dtype).requires_grad_(grad)
            y = layer(x)
            torch.testing.assert_close(y, functional.linear(x, whole, bias))
            if grad:
                dy = drawn(rows, 48, seed=3).to(dtype)
                (dx,) = torch.autograd.grad(y, x, dy)
                torch.testing.assert_close(dx, dy @ whole)


def test_rows_are_whole_groups() -> None:
    with pytest.raises(ConfigError, match=r"'layer.0': rows of 96 numbers are not whole groups"):
        one_layer(drawn(48, 96))


@pytest.mark.parametrize("name", ["bert", "gpt2-lm", "qwen2-lm"])
def test_every_frozen_layer_gives_its_gradient(wide_folder: Folders, name: str) -> None:
    case = CASES[name]
    how: dict[str, Any] = {"task": case.task.kind, "pooling": case.task.pooling, "classes": 3}
    how |= {"dtype": torch.float32, "device": CPU}
    plain, _ = load(case.folder(wide_folder), **how)
    model, _ = load(case.folder(wide_folder), **how, four_bit=True)
    stored = [(n, m) for n, m in model.named_modules() if type(m).__name__ == "Linear4bit"]
    assert len(stored) == {"bert": 18, "gpt2-lm": 8, "qwen2-lm": 14}[name]
    for path, layer in stored:
        inner: Any = layer
        x = drawn(5, inner.in_features).requires_grad_()
        dy = drawn(5, inner.out_features, seed=1)
        (dx,) = torch.autograd.grad(inner(x), x, dy)
        torch.testing.assert_close(dx, dy @ dense_of(inner), msg=path)
        before: Any = plain.get_submodule(path)
        turned = before.weight if isinstance(before, nn.Linear) else before.weight.t()
        error = (dense_of(inner) - turned).norm() / turned.norm()
        assert 0.08 < float(error) < 0.1, path
    assert weight_count(model) == weight_count(plain)
    assert stored_bytes(model) < stored_bytes(plain)


def built(folders: Folders, adapter: Component, *, four_bit: bool = True) -> CohortModel:
    case = CASES["bert"]
    how: dict[str, Any] = {"dtype": torch.float32, "device": CPU, "engine": "transformers"}
    return build_model(case.folder(folders), adapter, case.task, **how, four_bit=four_bit)


def test_pefts_lora_is_ours_over_the_same_weights(wide_folder: Folders, ragged: Ragged) -> None:
    # Both engines over NF4, same start: they train to the same numbers. A frozen layer without a
    # gradient in one of them would show.
    ours = built(
        wide_folder, Component("lora", {"rank": 4, "alpha": 8.0, "targets": ("query", "value")})
    )
    options = {**QLORA.options, "lora_alpha": 8}
    theirs = built(wide_folder, Component("peft", options))
    examples = CASES["bert"].examples(ragged)
    params = start(ours)
    assert sorted(ours.layout.names) == sorted(theirs.layout.names)
    other = type(params)(
        theirs.layout, theirs.layout.flatten(dict(params.layout.unflatten(params.vector)))
    )
    work = LocalWork(epochs=2, batch_size=4, lr=0.05)
    found = {}
    for key, model, begun in (("ours", ours, params), ("theirs", theirs, other)):
        session = model.session(begun, ("*",), examples)
        evaluate(session, begun, examples)  # without a gradient, as a run does before it trains
        found[key] = [r for one in cohort() for r in Backprop().train(session, begun, work, [one])]
    for mine, their in zip(found["ours"], found["theirs"], strict=True):
        a = ours.layout.unflatten(mine.delta)
        b = theirs.layout.unflatten(their.delta)
        for tensor in a:
            np.testing.assert_allclose(a[tensor], b[tensor], rtol=1e-3, atol=1e-5)
    together = Backprop().train(ours.session(params, ("*",), examples), params, work, cohort())
    assert apart(together, found["ours"]) < 1e-4


def test_a_job_trains_over_it(
    text_model: dict[str, Path], wide_folder: Folders, tmp_path: Path
) -> None:
    folder = wide_folder["bert", "AutoModel"]
    shutil.copyfile(text_model["classify"] / "tokenizer.json", folder / "tokenizer.json")
    table = classify_table(folder, FIXTURE, run={"directory": str(tmp_path / "a")})
    table["backbone"] |= {"engine": "transformers", "quantization": "nf4"}
    table |= {"adapter": {"name": "peft", **QLORA.options}, "rounds": 2, "clients_per_round": 3}
    del table["stages"]
    job = job_of(table)
    assert folder_of(job.backbone, CPU, lambda text: None) == folder
    run = simulate(job, observer=Quiet())
    assert [line.accepted for line in run.history] == [0, 3, 3]
    assert np.isfinite(run.params.vector).all()
    forward = job_of(table | {"learner": "forward-gradient"})
    with pytest.raises(ConfigError, match="bitsandbytes has no forward-mode derivative"):
        model_of(forward, folder, ["a", "b"], dtype=torch.float32, device=CPU)
