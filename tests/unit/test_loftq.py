"""LoftQ: what is stored and what LoRA starts from, together nearer to the weight."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from fedloom.backbones.checkpoint import open_checkpoint
from fedloom.backbones.formats import SCHEMES
from fedloom.backbones.loftq import LoftQ, alternate, read_starts
from fedloom.backbones.portion import write_portion
from fedloom.backbones.quantize import Rounded, quantize
from fedloom.backbones.schemes import pack
from fedloom.cli import main
from fedloom.core.errors import ConfigError, ModelError
from fedloom.core.registry import Component, Option
from fedloom.tuning.base import Task
from fedloom.tuning.build import build_model
from fedloom.tuning.fused_model import FusedModel

CPU = torch.device("cpu")
INT4 = SCHEMES["int4-32"]
Folders = dict[tuple[str, str], Path]


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("shape", [(48, 96), (96, 64)])
@pytest.mark.parametrize("scheme", ["int8", "int4-32", "nf4-64"])
def test_together_they_are_nearer(shape: tuple[int, int], scheme: str) -> None:
    weight = drawn(96, 192)[: shape[0], : 2 * shape[1]]
    own = SCHEMES[scheme]
    plain = float((pack(weight, own).whole() - weight).norm())
    errors = []
    for rank in (1, 8, 24):
        packed, (a, b) = alternate(weight, own, LoftQ(rank))
        assert (a.shape, b.shape) == ((rank, weight.shape[1]), (weight.shape[0], rank))
        errors.append(float((packed.whole() + b @ a - weight).norm()))
    assert plain > errors[0] > errors[1] > errors[2]


def test_one_turn_is_the_best_product_of_that_rank() -> None:
    # Eckart and Young: what is left of the rounding error is its singular values beyond the rank.
    weight = drawn(32, 64)
    packed, (a, b) = alternate(weight, INT4, LoftQ(5, steps=1))
    assert torch.equal(packed.codes, pack(weight, INT4).codes)
    values = torch.linalg.svdvals((weight - packed.whole()).double())
    left = float((weight - packed.whole() - b @ a).double().norm())
    assert left == pytest.approx(float(values[5:].norm()), rel=1e-5)
    # the weight of each direction is shared evenly between A and B
    torch.testing.assert_close(a.norm(dim=1), b.norm(dim=0), rtol=1e-4, atol=0)


def test_more_turns_are_never_further() -> None:
    weight = drawn(64, 64)
    errors = []
    for steps in (1, 2, 5):
        packed, (a, b) = alternate(weight, INT4, LoftQ(4, steps=steps))
        errors.append(float((packed.whole() + b @ a - weight).norm()))
    assert errors[0] >= errors[1] >= errors[2]


def test_a_rank_above_the_smaller_side_and_a_bad_one() -> None:
    weight = drawn(4, 64)
    packed, (a, b) = alternate(weight, INT4, LoftQ(6))
    assert (a.shape, b.shape) == ((6, 64), (4, 6))
    torch.testing.assert_close(packed.whole() + b @ a, weight, rtol=1e-4, atol=1e-4)
    with pytest.raises(ConfigError, match="loftq = 0: a rank of 1 or more"):
        LoftQ(0)


def small(folders: Folders, out: Path, family: str = "bert", rank: int = 4) -> Path:
    auto = "AutoModel" if family == "bert" else "AutoModelForCausalLM"
    return quantize(folders[family, auto], out, SCHEMES["int8"], loftq=LoftQ(rank))


def built(folder: Path, **options: Option) -> FusedModel:
    component = Component("lora", {"rank": 4, "init": "loftq", **options})
    model = build_model(folder, component, Task("classify", 3), dtype=torch.float32, device=CPU)
    assert isinstance(model, FusedModel)
    return model


@pytest.mark.parametrize("family", ["bert", "llama", "gpt2"])
def test_lora_starts_there(family: str, model_folder: Folders, tmp_path: Path) -> None:
    told: list[Rounded] = []
    auto = "AutoModel" if family == "bert" else "AutoModelForCausalLM"
    dense = model_folder[family, auto]
    folder = quantize(
        dense,
        tmp_path / "out",
        SCHEMES["int8"],
        loftq=LoftQ(4),
        progress=lambda rounded, *_: told.append(rounded),
    )
    model, plain = built(folder), built(folder)
    params = model.initial(0)
    tensors = params.layout.unflatten(params.vector)
    loras = [spec for spec in model.layout if "A" in spec.tags]
    assert len(loras) == len(model.catalog.linears)
    original = open_checkpoint(dense, CPU)
    for spec in loras:
        name = spec.name.removesuffix(".lora_A.weight")
        b = tensors[f"{name}.lora_B.weight"]
        change = torch.from_numpy(2.0 * b @ tensors[spec.name])  # alpha is twice the rank
        packed = plain.catalog.stored(name)
        assert packed is not None
        names = [f"{prefix}{name}.weight" for prefix in ("", "model.", "transformer.")]
        weight = original.get(names)
        weight = weight.t() if family == "gpt2" else weight
        alone = (packed.whole() - weight).norm()
        assert float((packed.whole() + change - weight).norm()) < float(alone)
    assert not any(part.is_identity(tensors) for part in model.composition.parts[:-1])


@pytest.mark.filterwarnings("ignore::FutureWarning")  # peft and transformers
def test_the_file_is_pefts_and_goes_with_every_portion(
    model_folder: Folders, tmp_path: Path
) -> None:
    folder = small(model_folder, tmp_path / "out")
    config = json.loads((folder / "adapter_config.json").read_text())
    assert (config["peft_type"], config["r"], config["lora_alpha"]) == ("LORA", 4, 4)
    starts = read_starts(folder)
    assert config["target_modules"] == sorted(starts)
    from transformers import AutoModel

    peft = pytest.importorskip("peft")
    base = AutoModel.from_pretrained(model_folder["bert", "AutoModel"])
    loaded = peft.PeftModel.from_pretrained(base, folder)
    state = peft.get_peft_model_state_dict(loaded)
    found = load_file(folder / "adapter_model.safetensors")
    assert set(state) == set(found)
    assert all(torch.equal(state[name], tensor) for name, tensor in found.items())
    portion = write_portion(folder, tmp_path / "part", ["layer.1", "layer.2", "final", "head"])
    assert set(read_starts(portion)) == set(starts)


def test_what_does_not_fit_is_told(model_folder: Folders, tmp_path: Path) -> None:
    folder = small(model_folder, tmp_path / "out")
    with pytest.raises(ConfigError, match=r"adapter\.rank = 8: 4, as the start has"):
        built(folder, rank=8)
    with pytest.raises(ConfigError, match="every linear map has its start: no other targets"):
        built(folder, targets=("query",))
    with pytest.raises(ConfigError, match=r"adapter\.init = 'zeros': random or loftq"):
        built(folder, init="zeros")
    text = "no start for .*; fedloom quantize --loftq makes it"
    with pytest.raises(ConfigError, match=text):
        built(model_folder["bert", "AutoModel"])
    (folder / "adapter_model.safetensors").write_bytes(b"none")
    with pytest.raises(ModelError, match="no start of LoRA that can be read"):
        built(folder)


def test_the_command(
    model_folder: Folders, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(["quantize", str(model_folder["bert", "AutoModel"]), str(out), "--loftq", "2"]) == 0
    assert {len(a) for a, _ in read_starts(out).values()} == {2}
    assert "error" in capsys.readouterr().out
