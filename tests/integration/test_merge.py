"""Merged backbones: they load again, and say what backbone and adapter said together."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from cohorts import CASES, CPU, Folders, Ragged, start
from numpy.typing import NDArray
from small_jobs import classify_table

from fedloom.backbones.checkpoint import open_checkpoint
from fedloom.backbones.formats import SCHEMES
from fedloom.backbones.loftq import LoftQ
from fedloom.backbones.notes import scheme_in
from fedloom.backbones.quantize import quantize
from fedloom.backbones.schemes import pack
from fedloom.cli import main
from fedloom.core.errors import ConfigError
from fedloom.core.registry import Component
from fedloom.core.types import Params
from fedloom.progress import Quiet
from fedloom.simulation.simulator import simulate
from fedloom.sources import job_of
from fedloom.tuning.build import build_model
from fedloom.tuning.evaluate import evaluate
from fedloom.tuning.export import load_adapter
from fedloom.tuning.fused_model import FusedModel
from fedloom.tuning.merge import HEADS, Merged, merge

FIXTURE = Path(__file__).parents[1] / "fixtures" / "text_era.jsonl.gz"
LORA = Component("lora", {"rank": 3, "targets": ("all-linear",)})


def built(folder: Path, name: str, adapter: Component) -> FusedModel:
    model = build_model(folder, adapter, CASES[name].task, dtype=torch.float32, device=CPU)
    assert isinstance(model, FusedModel)
    return model


def trained(model: FusedModel, share: float) -> Params:
    """A little away from the start: scales by some of themselves, anything else by noise."""
    params = start(model)
    tensors: dict[str, NDArray[np.generic]] = {
        n: t.copy() for n, t in params.layout.unflatten(params.vector).items()
    }
    rng = np.random.default_rng(4)
    for spec in model.layout:
        if "peqa" in spec.tags:
            packed = model.catalog.stored(spec.name.removesuffix(".scale"))
            assert packed is not None
            change = share * rng.standard_normal(spec.shape) * packed.scale.float().numpy()
            tensors[spec.name] = change.astype(np.float32)
    return Params(model.layout, model.layout.flatten(tensors))


@dataclass(frozen=True)
class Both:
    """A model before and after merging, on the same examples."""

    case: str
    ragged: Ragged

    def losses(self, model: FusedModel, params: Params) -> NDArray[np.float64]:
        examples = CASES[self.case].examples(self.ragged)
        found = evaluate(model.session(params, ("*",), examples), params, examples)
        return np.asarray(found.loss, dtype=np.float64)

    def after(self, out: Path) -> NDArray[np.float64]:
        """Of the folder by itself, with the head that lies in it."""
        lm = CASES[self.case].task.kind == "causal-lm"  # which has no head; a new LoRA is nothing
        model = built(out, self.case, Component("lora" if lm else "head"))
        params = model.initial(0)
        if CASES[self.case].task.pooling == "mean" and not lm:  # else it is the model's own
            params = params.having(load_adapter(out / HEADS)[0])
        return self.losses(model, params)


def checked(both: Both, model: FusedModel, params: Params, out: Path, atol: float) -> None:
    before = both.losses(model, params)
    np.testing.assert_allclose(both.after(out), before, rtol=0, atol=atol)
    assert np.abs(before - both.losses(model, model.initial(0))).max() > 10 * atol


@pytest.mark.parametrize("name", ["bert", "gpt2-lm"])
@pytest.mark.parametrize("scheme", ["int8", "int4-32", "q4_1"])
def test_peqa_merges_exactly(
    model_folder: Folders, ragged: Ragged, tmp_path: Path, name: str, scheme: str
) -> None:
    small = quantize(CASES[name].folder(model_folder), tmp_path / "small", SCHEMES[scheme])
    model = built(small, name, Component("peqa", {"layers": (1,)}))  # others only change format
    params = trained(model, 0.1)
    told: list[Merged] = []
    out = merge(model, params, tmp_path / "out", progress=told.append)
    tensors = params.layout.unflatten(params.vector)
    found, source = open_checkpoint(out, CPU), open_checkpoint(small, CPU)
    wide = scheme_in(out)
    assert wide is not None
    for stored in source.stored:
        packed, now = source.packed((stored,)), found.packed((stored,))
        assert packed is not None
        assert now is not None
        names = [n for n in tensors if n.endswith(".scale") and n[:-6] in f"base.{stored}"]
        change = torch.from_numpy(tensors[names[0]].copy()) if names else torch.tensor(0.0)
        assert torch.equal(now.codes, packed.codes)
        assert torch.equal(now.scale.float(), packed.scale.float() + change)
        assert bool(names) == any(each.name == stored for each in told)
    assert len(told) == len(list(model.composition.parts)) - (name == "bert")
    assert max(each.lost for each in told) < 1e-5  # of float32 sums, beside the change
    assert all(each.kept == wide.name for each in told)
    checked(Both(name, ragged), model, params, out, 2e-5)


@pytest.mark.parametrize("name", ["bert", "gpt2-lm"])
@pytest.mark.parametrize("scheme", ["int4-32", "uint4-32", "q4_0"])
def test_qa_lora_merges_exactly(
    model_folder: Folders, ragged: Ragged, tmp_path: Path, name: str, scheme: str
) -> None:
    small = quantize(CASES[name].folder(model_folder), tmp_path / "small", SCHEMES[scheme])
    model = built(small, name, Component("qa-lora", {"rank": 2, "targets": ("all-linear",)}))
    params = start(model)
    told: list[Merged] = []
    out = merge(model, params, tmp_path / "out", progress=told.append)
    found, source = open_checkpoint(out, CPU), open_checkpoint(small, CPU)
    assert scheme_in(out) == SCHEMES["uint4-32-wide" if scheme == "q4_0" else "uint4-32"]
    for each in told:
        packed, now = source.packed((each.name,)), found.packed((each.name,))
        assert packed is not None
        assert now is not None
        assert torch.equal(now.codes, packed.codes)
        assert torch.equal(now.scale.float(), packed.scale.float())
        assert each.lost < 1e-5
    checked(Both(name, ragged), model, params, out, 2e-5)


@pytest.mark.parametrize("name", ["bert", "bert-mean", "llama", "gpt2-lm", "vit"])
def test_lora_merges_into_floats(
    model_folder: Folders, ragged: Ragged, tmp_path: Path, name: str
) -> None:
    model = built(CASES[name].folder(model_folder), name, LORA)
    params = start(model)
    told: list[Merged] = []
    out = merge(model, params, tmp_path / "out", progress=told.append)
    checked(Both(name, ragged), model, params, out, 2e-5)
    assert {each.kept for each in told} == {"float32"}
    assert max(each.lost for each in told) < 1e-5
    _, info = getattr(transformers, CASES[name].auto).from_pretrained(out, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["mismatched_keys"]


def test_lora_over_stored_weights_becomes_floats_or_is_rounded_once_more(
    model_folder: Folders, ragged: Ragged, tmp_path: Path
) -> None:
    small = quantize(CASES["gpt2-lm"].folder(model_folder), tmp_path / "s", SCHEMES["int4-32"])
    model = built(small, "gpt2-lm", LORA)
    params = start(model)
    out = merge(model, params, tmp_path / "out")
    assert scheme_in(out) is None
    checked(Both("gpt2-lm", ragged), model, params, out, 2e-5)
    transformers.AutoModelForCausalLM.from_pretrained(out)
    told: list[Merged] = []
    again = merge(model, params, tmp_path / "again", requantize=True, progress=told.append)
    assert scheme_in(again) == SCHEMES["int4-32"]
    before, after = open_checkpoint(out, CPU), open_checkpoint(again, CPU)
    for each in told:
        # What is told is the distance of what was rounded from what was to be rounded.
        exact = before.get((each.name,)).t().contiguous()
        packed = after.packed((each.name,))
        assert packed is not None
        assert torch.equal(packed.codes, pack(exact, SCHEMES["int4-32"]).codes)
        stored = open_checkpoint(small, CPU).get((each.name,))
        lost = float((packed.whole() - exact).norm() / (exact - stored).norm())
        assert each.lost == pytest.approx(lost, rel=1e-4)
        assert each.lost > 0.1  # most of half a step, beside a change of a few of them


def test_loftq_starts_are_merged(model_folder: Folders, ragged: Ragged, tmp_path: Path) -> None:
    folder = CASES["bert"].folder(model_folder)
    small = quantize(folder, tmp_path / "s", SCHEMES["int4-32"], loftq=LoftQ(2))
    model = built(small, "bert", Component("lora", {"rank": 2, "init": "loftq"}))
    params = start(model)
    out = merge(model, params, tmp_path / "out")
    assert not (out / "adapter_config.json").exists()
    checked(Both("bert", ragged), model, params, out, 2e-5)


def test_what_does_not_merge(model_folder: Folders, tmp_path: Path) -> None:
    folder, out = CASES["bert"].folder(model_folder), tmp_path / "out"
    small = quantize(folder, tmp_path / "small", SCHEMES["int4-32"])
    cases = [
        (folder, "head", False, "nothing to merge: only a head was trained"),
        (folder, "bitfit", False, "it does not merge into matrices; what lora, peqa and qa-lora"),
        (folder, "lora", True, "--requantize: the backbone is not stored in fewer bits"),
        (small, "peqa", True, "--requantize: only LoRA needs it"),
    ]
    for where, adapter, requantize, text in cases:
        model = built(where, "bert", Component(adapter))
        with pytest.raises(ConfigError, match=text):
            merge(model, model.initial(0), out, requantize=requantize)
    assert not out.exists()


def test_the_command_merges_a_run(
    text_model: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = classify_table(text_model["classify"], FIXTURE, run={"directory": str(tmp_path / "a")})
    table["backbone"] |= {"quantization": "int4", "kernel": "dequantize"}
    table["stages"] = [{**stage, "rounds": 1} for stage in table["stages"]]
    table["stages"][1]["local"]["lr"] = 1e-4  # changes of less than half a step, as in large models
    simulate(job_of(table), observer=Quiet())
    run, out = str(tmp_path / "a"), str(tmp_path / "out")
    assert main(["merge", run, out]) == 0
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 6 + 1  # queries and values of three layers
    assert said[-1].startswith(f"{out}: 6 matrices changed; rounding lost 0.0")
    assert main(["merge", run, out]) == 2
    assert "it is there already" in capsys.readouterr().err
    assert main(["merge", run, str(tmp_path / "again"), "--requantize"]) == 0
    assert "merge without --requantize" in capsys.readouterr().out
    head, classes = load_adapter(tmp_path / "out" / HEADS)
    assert head.layout.names == ("classifier.weight", "classifier.bias")
    table["backbone"] = {"name": out, "max_tokens": 32}
    again = simulate(job_of(table | {"run": {"directory": str(tmp_path / "b")}}), observer=Quiet())
    assert [line.round for line in again.history] == [0, 1, 2]
    assert len(classes) == 4
