"""Names and shapes agree with transformers; what is not fused is refused by name."""

from pathlib import Path

import numpy as np
import pytest
import torch
from fused_models import CPU, TEXT, config, fused, randomise, reference
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoModelForImageClassification

from fedloom.backbones.base import Packing
from fedloom.backbones.fused import load_fused
from fedloom.backbones.packing import pack, pack_images
from fedloom.backbones.shape import read_shape
from fedloom.core.errors import ModelError

ALL = (*TEXT, "vit")


@pytest.mark.parametrize("family", ALL)
def test_every_linear_and_norm_is_a_module_of_transformers(family: str, tmp_path: Path) -> None:
    model = reference(family)
    backbone = fused(model, tmp_path)
    assert backbone.prefix == model.base_model_prefix
    for linear in backbone.linears:
        module = model.get_submodule(linear.name)
        sizes = set(module.weight.shape)  # GPT-2 stores the transpose
        assert sizes == {linear.d_in, linear.d_out}
    for norm in backbone.norms:
        assert model.get_submodule(norm.name).weight.shape == (norm.d_in,)
    inside = {name.rpartition(".")[0] for name, _ in model.named_parameters()}
    layered = {name for name in inside if any(part.isdigit() for part in name.split("."))}
    assert layered == {m.name for m in (*backbone.linears, *backbone.norms)}


@pytest.mark.parametrize("family", ALL)
def test_blocks_are_named_in_order(family: str, tmp_path: Path) -> None:
    backbone = fused(reference(family), tmp_path)
    final = () if family == "bert" else ("final",)
    assert backbone.blocks == ("embeddings", "layer.0", "layer.1", *final)
    assert {linear.block for linear in backbone.linears} == {"layer.0", "layer.1"}


def test_transformers_4_spells_the_rope_base_at_the_top() -> None:
    old = {"model_type": "llama", "rope_theta": 5e5, "rope_scaling": None}
    new = {"model_type": "llama", "rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}
    assert read_shape(old) == read_shape(new)
    assert read_shape(old).rope_theta == 5e5


@pytest.mark.parametrize(
    ("family", "options", "message"),
    [
        ("mamba", {}, "model_type = 'mamba': no fused blocks; fused families: bert, llama"),
        ("llama", {"rope_parameters": {"rope_type": "llama3"}}, "rope_type = 'llama3'"),
        ("llama", {"rope_scaling": {"type": "linear", "factor": 2}}, "rope_type = 'linear'"),
        ("llama", {"rope_parameters": 3}, "rope_parameters = 3: expected an object"),
        ("qwen2", {"use_sliding_window": True}, "use_sliding_window = True"),
        ("bert", {"hidden_act": "mish"}, "hidden_act = 'mish': fused blocks have gelu"),
        ("bert", {"position_embedding_type": "relative_key"}, "position_embedding_type"),
        ("bert", {"is_decoder": True}, "is_decoder = True: fused blocks have False only"),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx"),
        ("gpt2", {"n_layer": -1}, "n_layer = -1: expected a positive integer"),
        ("bert", {"layer_norm_eps": "x"}, "layer_norm_eps = 'x': expected a positive number"),
        ("vit", {"image_size": [1, 2, 3]}, "image_size = .*one or two positive integers"),
    ],
)
def test_refuses_what_is_not_fused(family: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        read_shape({"model_type": family, **options})


def test_head_dim_may_differ_from_width_over_heads() -> None:
    shape = read_shape({"model_type": "llama", "hidden_size": 64, "head_dim": 32})
    assert shape.qkv_widths == (32 * 32, 32 * 32, 32 * 32)


@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt2"])
def test_logits_of_task_checkpoints_equal_transformers(family: str, tmp_path: Path) -> None:
    """With the prefix in its names; qwen2 and gpt2 tie the head, llama has its own."""
    model = randomise(AutoModelForCausalLM.from_config(config(family)))
    backbone = fused(model, tmp_path)
    ids = torch.arange(1, 8)[None]
    packing = text(ids)
    rows = backbone.run(backbone.embed(packing), packing)[0]
    ours = backbone.token_logits(rows)
    torch.testing.assert_close(ours, model(input_ids=ids).logits[0], atol=1e-4, rtol=1e-4)


def text(ids: torch.Tensor) -> Packing:
    return pack([[row.numpy().astype(np.int32)] for row in ids], read=None)


def test_image_task_checkpoints_load(tmp_path: Path) -> None:
    model = randomise(AutoModelForImageClassification.from_config(config("vit")))
    backbone = fused(model, tmp_path)
    pixels, packing = torch.randn(1, 2, 3, 12, 12), pack_images(1, 2, 10)
    hidden = backbone.run(backbone.embed_images(pixels, packing), packing, trim=True)
    ours = model.classifier(backbone.finish(hidden, packing, "first", trimmed=True))[0]
    torch.testing.assert_close(ours, model(pixels[0]).logits, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", ALL)
def test_shards_hold_the_same_weights(family: str, tmp_path: Path) -> None:
    model = reference(family)
    whole = fused(model, tmp_path / "whole")
    model.save_pretrained(tmp_path / "shards", max_shard_size="20KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 1
    shards = load_fused(tmp_path / "shards", dtype=torch.float32, device=CPU)
    for one, other in zip(whole.layers, shards.layers, strict=True):
        for a, b in zip(one.products, other.products, strict=True):
            torch.testing.assert_close(a.weight, b.weight, rtol=0, atol=0)
    assert whole.digest != shards.digest


def test_first_checkpoints_of_bert_say_gamma_and_beta(tmp_path: Path) -> None:
    fused(reference("bert"), tmp_path)
    path = tmp_path / "model.safetensors"
    tensors = load_file(path)
    older = {n.replace("LayerNorm.weight", "LayerNorm.gamma"): t for n, t in tensors.items()}
    older = {n.replace("LayerNorm.bias", "LayerNorm.beta"): t for n, t in older.items()}
    save_file(older, path)
    backbone = load_fused(tmp_path, dtype=torch.float32, device=CPU)
    name = "encoder.layer.1.output.LayerNorm"
    assert torch.equal(backbone.layers[1].norm2.weight, tensors[f"{name}.weight"])
