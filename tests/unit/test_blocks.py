"""The block map of every family: a partition, in order, with the sizes that are known."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from fused_models import TEXT, fused, reference
from transformers import (
    BertConfig,
    GPT2Config,
    LlamaConfig,
    Qwen2Config,
    T5Config,
    ViTConfig,
    WhisperConfig,
)

from fedloom.backbones.blocks import BlockMap, block_names, map_of
from fedloom.core.errors import ModelError

_BASE: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
}
_IDS: dict[str, Any] = {"vocab_size": 50, "bos_token_id": 1, "eos_token_id": 2}
_SPEECH: dict[str, Any] = {
    "d_model": 32,
    "encoder_layers": 1,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "num_mel_bins": 8,
    "pad_token_id": 0,
    "decoder_start_token_id": 1,
}
LAYERS = ("layer.0", "layer.1")
ENCODER = ("encoder.layer.0", "encoder.final")
DECODER = ("decoder.layer.0", "decoder.layer.1", "decoder.final")


def config(family: str) -> Any:
    match family:
        case "bert":
            return BertConfig(**_BASE, vocab_size=50)
        case "gpt2":
            return GPT2Config(n_embd=32, n_layer=2, n_head=4, **_IDS)
        case "llama":
            return LlamaConfig(**_BASE, num_key_value_heads=2, **_IDS)
        case "qwen2":
            return Qwen2Config(**_BASE, num_key_value_heads=2, tie_word_embeddings=True, **_IDS)
        case "t5":
            widths = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_heads": 4, "vocab_size": 50}
            return T5Config(**widths, num_layers=1, num_decoder_layers=2)
        case "vit":
            return ViTConfig(**_BASE, image_size=12, patch_size=4)
    return WhisperConfig(**_SPEECH, **_IDS)


CASES = {
    ("bert", "AutoModel"): ("embeddings", *LAYERS, "pooler"),
    ("bert", "AutoModelForMaskedLM"): ("embeddings", *LAYERS, "head"),
    ("bert", "AutoModelForSequenceClassification"): ("embeddings", *LAYERS, "pooler", "head"),
    ("gpt2", "AutoModel"): ("embeddings", *LAYERS, "final"),
    ("gpt2", "AutoModelForSequenceClassification"): ("embeddings", *LAYERS, "final", "head"),
    ("llama", "AutoModel"): ("embeddings", *LAYERS, "final"),
    ("llama", "AutoModelForCausalLM"): ("embeddings", *LAYERS, "final", "head"),
    ("qwen2", "AutoModelForCausalLM"): ("embeddings", *LAYERS, "final"),
    ("t5", "AutoModel"): ("embeddings", *ENCODER, *DECODER),
    ("vit", "AutoModel"): ("embeddings", *LAYERS, "final", "pooler"),
    ("vit", "AutoModelForImageClassification"): ("embeddings", *LAYERS, "final", "head"),
    ("whisper", "AutoModelForSpeechSeq2Seq"): (
        "encoder.embeddings",
        *ENCODER,
        "decoder.embeddings",
        *DECODER,
    ),
}


def made(family: str, auto: str) -> Any:
    with torch.device("meta"):
        return getattr(transformers, auto).from_config(config(family))


def mapped(model: Any) -> BlockMap:
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
    return map_of(shapes, model.base_model_prefix)


@pytest.mark.parametrize(("family", "auto"), CASES)
def test_blocks_are_ordered_and_partition_the_parameters(family: str, auto: str) -> None:
    model = made(family, auto)
    found = mapped(model)
    assert found.names == CASES[family, auto]
    tensors = [name for block in found.blocks for name in block.tensors]
    assert sorted(tensors) == sorted(name for name, _ in model.named_parameters())
    assert len(set(tensors)) == len(tensors)
    sizes = {name: p.numel() for name, p in model.named_parameters()}
    for block in found.blocks:
        assert block.parameters == sum(sizes[name] for name in block.tensors)
        assert block.nbytes(2) == 2 * block.parameters
    assert found.parameters == sum(sizes.values())


@pytest.mark.parametrize(("family", "auto"), CASES)
def test_the_order_of_the_names_does_not_matter(family: str, auto: str) -> None:
    # Files hold tensors in alphabetical order.
    model = made(family, auto)
    shapes = {name: tuple(p.shape) for name, p in sorted(model.named_parameters())}
    found, want = map_of(shapes, model.base_model_prefix), mapped(model)
    assert found.names == want.names
    assert [set(b.tensors) for b in found.blocks] == [set(b.tensors) for b in want.blocks]


@pytest.mark.parametrize("family", [*TEXT, "vit"])
def test_a_fused_backbone_has_the_same_layers(family: str, tmp_path: Path) -> None:
    model = reference(family)
    backbone, found = fused(model, tmp_path), mapped(model)
    assert [n for n in backbone.blocks if n != "final"] == [
        n for n in found.names if n not in ("final", "pooler")
    ]
    for i, block in enumerate(backbone.layers):
        norms = (block.norm1, block.norm2)
        held = [t for p in block.products for t in (p.weight, p.bias)]
        held += [t for norm in norms for t in (norm.weight, norm.bias)]
        assert found[f"layer.{i}"].parameters == sum(t.shape.numel() for t in held if t is not None)


def test_one_layer_and_the_head_of_bert_base() -> None:
    """FedBFPT's traffic: one layer and what its masked language model adds to the embeddings.

    A layer has 4 (768^2 + 768) + 2 * 768 * 3072 + 3072 + 768 + 4 * 768 = 7,087,872 parameters; the
    head 768^2 + 768, a norm of 2 * 768 and a bias of 30,522, its matrix being the embedding.
    """
    with torch.device("meta"):
        model = transformers.BertForMaskedLM(BertConfig())
    found = mapped(model)
    layer, head = found["layer.0"], found["head"]
    assert layer.parameters == 7_087_872
    assert head.parameters == 590_592 + 1_536 + 30_522
    payload = layer.nbytes() + head.nbytes()
    assert payload / 2**20 == pytest.approx(29.41, abs=0.005)
    assert payload / (4 * found.parameters) == pytest.approx(0.0704, abs=0.00005)


def test_a_block_that_is_not_there() -> None:
    found = mapped(made("bert", "AutoModel"))
    text = r"no block 'layer.2'; the model has embeddings, layer.0, layer.1, pooler"
    with pytest.raises(ModelError, match=text):
        found["layer.2"]


def test_lists_that_are_not_the_layers() -> None:
    # Of several numbered lists, the layers are the one with most parameters.
    names = ["extractor.conv.0.weight", "extractor.conv.1.weight"]
    names += [f"stack.{i}.{field}" for i in range(2) for field in ("weight", "bias")]
    assert list(block_names(names).values()) == [
        *["embeddings"] * 2,
        *["layer.0"] * 2,
        *["layer.1"] * 2,
    ]
