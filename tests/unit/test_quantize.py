"""A folder in fewer bits is the model whose matrices are what the codes stand for."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from fused_models import CPU, TEXT, close, fused, reference, tokens, weigh
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import BertConfig, BertModel

from fedloom.backbones.checkpoint import open_checkpoint, read_config
from fedloom.backbones.families import FAMILIES
from fedloom.backbones.formats import SCHEMES
from fedloom.backbones.fused import FusedBackbone, load_fused
from fedloom.backbones.packing import pack as packed_tokens
from fedloom.backbones.portion import write_portion
from fedloom.backbones.quantize import Rounded, matrices, quantize
from fedloom.backbones.schemes import pack
from fedloom.backbones.shape import read_shape
from fedloom.core.errors import ConfigError, ModelError

INT8, INT4 = SCHEMES["int8"], SCHEMES["int4-32"]


def flattened(folder: Path, small: Path, out: Path) -> Path:
    """The original with every matrix as it is stored in `small`, in 32 bits."""
    source = open_checkpoint(small, CPU)
    turned = FAMILIES[read_shape(read_config(folder)).family].transposed
    tensors = load_file(folder / "model.safetensors")
    for name, how in source.stored.items():
        whole = source.get([name])
        inner = turned and name.startswith("h.")
        expected = pack(tensors[name].t() if inner else tensors[name], SCHEMES[how.scheme])
        assert torch.equal(whole, expected.whole())
        tensors[name] = (whole.t() if inner else whole).contiguous()
    shutil.copytree(folder, out)
    save_file(tensors, out / "model.safetensors", {"format": "pt"})
    return out


def through(backbone: FusedBackbone) -> tuple[Tensor, Tensor]:
    """Hidden states of two clients' texts, and the gradient to the first ones."""
    packing = packed_tokens(tokens(((5, 9, 2), (7,))), read=None)
    start = backbone.embed(packing).detach().requires_grad_()
    hidden = backbone.run(start, packing).flatten(0, 1)
    known = torch.cat((hidden[:16], hidden[16:23]))  # the rest is padding
    return known.detach(), torch.autograd.grad(weigh(known), start)[0]


@pytest.mark.parametrize("family", TEXT)
def test_every_family_runs_as_the_rounded_model(family: str, tmp_path: Path) -> None:
    fused(reference(family), tmp_path / "whole")
    told: list[Rounded] = []
    quantize(tmp_path / "whole", tmp_path / "small", INT8, progress=lambda r, *_: told.append(r))
    source = open_checkpoint(tmp_path / "whole", CPU)
    shape = read_shape(read_config(tmp_path / "whole"))
    assert {each.name for each in told} == {m.name for m in matrices(source, shape)}
    assert all(0.001 < each.error < 0.02 for each in told)
    assert {each.block for each in told} >= {"embeddings", "layer.0", "layer.1"}
    dense = flattened(tmp_path / "whole", tmp_path / "small", tmp_path / "dense")
    found, expected = (
        through(load_fused(folder, dtype=torch.float32, device=CPU))
        for folder in (tmp_path / "small", dense)
    )
    for mine, other in zip(found, expected, strict=True):
        close(mine, other, family)


def small_bert(folder: Path) -> None:
    torch.manual_seed(0)
    shape = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = BertConfig(**shape, intermediate_size=96, vocab_size=50, max_position_embeddings=32)
    BertModel(config).eval().save_pretrained(folder)


@pytest.mark.parametrize("scheme", ["int4-32", "nf4-64"])
def test_four_bits_with_another_format_outside(scheme: str, tmp_path: Path) -> None:
    small_bert(tmp_path / "whole")
    if scheme == "nf4-64":
        with pytest.raises(ConfigError, match=r"nf4-64: tensor 'encoder.*rows of 96 numbers"):
            quantize(tmp_path / "whole", tmp_path / "small", SCHEMES[scheme])
        assert not (tmp_path / "small").exists()
        return
    quantize(tmp_path / "whole", tmp_path / "small", INT4, outer=INT8)
    formats = {n: s.scheme for n, s in open_checkpoint(tmp_path / "small", CPU).stored.items()}
    assert formats["embeddings.word_embeddings.weight"] == formats["pooler.dense.weight"] == "int8"
    assert formats["encoder.layer.1.output.dense.weight"] == "int4-32"
    dense = flattened(tmp_path / "whole", tmp_path / "small", tmp_path / "dense")
    found, expected = (
        load_fused(folder, dtype=torch.float32, device=CPU)
        for folder in (tmp_path / "small", dense)
    )
    for mine, other in zip(through(found), through(expected), strict=True):
        close(mine, other)
    assert found.pooler is not None
    assert expected.pooler is not None
    first = torch.randn(2, 64)
    close(found.pooler(first), expected.pooler(first))


def test_blocks_are_files_and_a_portion_keeps_its_bits(tmp_path: Path) -> None:
    small_bert(tmp_path / "whole")
    quantize(tmp_path / "whole", tmp_path / "small", INT4)
    quantize(tmp_path / "whole", tmp_path / "again", INT4)
    files = sorted(path.name for path in (tmp_path / "small").glob("*.safetensors"))
    assert len(files) == 4  # embeddings, two layers, the pooler
    for name in files:
        assert (tmp_path / "small" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
    whole = load_fused(tmp_path / "small", dtype=torch.float32, device=CPU)
    write_portion(tmp_path / "small", tmp_path / "part", ("embeddings", "layer.0"))
    held = {"embeddings", "layer.0"}
    part = load_fused(tmp_path / "part", dtype=torch.float32, device=CPU, held=held)
    packing = packed_tokens(tokens(((5, 9, 2),)), read=None)
    found, expected = (b.run(b.embed(packing), packing, last=1) for b in (part, whole))
    assert torch.equal(found, expected)


def test_damage_names_the_tensor(tmp_path: Path) -> None:
    small_bert(tmp_path / "whole")
    quantize(tmp_path / "whole", tmp_path / "small", INT4)
    path = sorted((tmp_path / "small").glob("*.safetensors"))[1]
    with safe_open(path, "pt") as file:
        name = "encoder.layer.0.output.dense.weight.q"
        assert name in set(file.keys())
    data = bytearray(path.read_bytes())
    start = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])[name]["data_offsets"][0]
    data[8 + int.from_bytes(data[:8], "little") + start] ^= 1
    path.write_bytes(data)
    with pytest.raises(ModelError, match=r"'encoder.layer.0.output.dense.weight' is damaged"):
        load_fused(tmp_path / "small", dtype=torch.float32, device=CPU)
    path.write_bytes(data[:-100])
    with pytest.raises(ModelError, match="cannot read"):
        load_fused(tmp_path / "small", dtype=torch.float32, device=CPU)


def test_what_cannot_be_quantized_is_told(tmp_path: Path) -> None:
    small_bert(tmp_path / "whole")
    quantize(tmp_path / "whole", tmp_path / "small", INT8)
    with pytest.raises(ModelError, match="in fewer bits already"):
        quantize(tmp_path / "small", tmp_path / "twice", INT4)
    tensors = load_file(tmp_path / "whole" / "model.safetensors")
    tensors["encoder.layer.1.output.dense.weight"][3, 4] = float("nan")
    save_file(tensors, tmp_path / "whole" / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=r"'encoder.layer.1.output.dense.weight': .* not finite"):
        quantize(tmp_path / "whole", tmp_path / "nan", INT8)
    assert not (tmp_path / "nan").exists()
