"""Model folders of published shapes with random weights, written as transformers would.

Neither transformers nor a download is needed; values do not change the speed.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor

__all__ = ["CONFIGS", "write_folder", "write_tokenizer"]


def _bert(width: int, depth: int, heads: int, inner: int) -> dict[str, object]:
    return {
        "architectures": ["BertForSequenceClassification"],
        "model_type": "bert",
        "hidden_size": width,
        "num_hidden_layers": depth,
        "num_attention_heads": heads,
        "intermediate_size": inner,
        "vocab_size": 30_522,
        "max_position_embeddings": 512,
        "type_vocab_size": 2,
        "pad_token_id": 0,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    }


CONFIGS: Mapping[str, Mapping[str, object]] = MappingProxyType(
    {
        "minilm": _bert(384, 6, 12, 1536),
        "tiny": _bert(64, 2, 2, 256),
        "bert-base": _bert(768, 12, 12, 3072),
        "qwen2.5-0.5b": {
            "architectures": ["Qwen2ForCausalLM"],
            "model_type": "qwen2",
            "hidden_size": 896,
            "num_hidden_layers": 24,
            "num_attention_heads": 14,
            "num_key_value_heads": 2,
            "intermediate_size": 4864,
            "vocab_size": 151_936,
            "max_position_embeddings": 32_768,
            "rope_theta": 1_000_000.0,
            "rms_norm_eps": 1e-6,
            "tie_word_embeddings": True,
            "pad_token_id": 0,
        },
    }
)
"""``config.json`` of each shape, as the models of these names have it."""


def write_folder(name: str, folder: Path, dtype: torch.dtype = torch.bfloat16) -> Path:
    """Write ``config.json`` and ``model.safetensors`` of a shape in `CONFIGS`.

    Weights are normal with standard deviation 0.02 (norms one, biases zero).

    Args:
        name: of the shape.
        folder: where; made if it is not there, left alone if it is complete.
        dtype: that the weights are written in; their values are those of bfloat16.
    """
    done = folder / "config.json"
    if done.is_file():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    config = CONFIGS[name]
    sizes = dict(_bert_sizes(config) if config["model_type"] == "bert" else _qwen_sizes(config))
    draws = torch.Generator().manual_seed(2024)
    tensors = {key: _values(key, size, draws).to(dtype) for key, size in sizes.items()}
    save_file(tensors, str(folder / "model.safetensors"), metadata={"format": "pt"})
    done.write_text(json.dumps(dict(config), indent=1), encoding="utf-8")
    return folder


def write_tokenizer(folder: Path, words: int) -> None:
    """Write a ``tokenizer.json`` that maps the words ``w0``, ``w1``, ... to ids of their own."""
    vocabulary = {"[UNK]": 0} | {f"w{i}": i + 1 for i in range(words)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(folder / "tokenizer.json"))


def _values(key: str, size: tuple[int, ...], draws: torch.Generator) -> Tensor:
    if "norm" in key.lower() and key.endswith("weight"):
        return torch.ones(size, dtype=torch.bfloat16)
    if key.endswith("bias"):
        return torch.zeros(size, dtype=torch.bfloat16)
    return torch.empty(size, dtype=torch.bfloat16).normal_(std=0.02, generator=draws)


def _linear(key: str, out: int, width: int, *, bias: bool) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{key}.weight", (out, width)
    if bias:
        yield f"{key}.bias", (out,)


def _norm(key: str, width: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{key}.weight", (width,)
    yield f"{key}.bias", (width,)


def _number(config: Mapping[str, object], key: str) -> int:
    return int(str(config[key]))


def _bert_sizes(config: Mapping[str, object]) -> Iterator[tuple[str, tuple[int, ...]]]:
    d, inner = _number(config, "hidden_size"), _number(config, "intermediate_size")
    embeddings = "bert.embeddings"
    yield f"{embeddings}.word_embeddings.weight", (_number(config, "vocab_size"), d)
    yield f"{embeddings}.position_embeddings.weight", (512, d)
    yield f"{embeddings}.token_type_embeddings.weight", (2, d)
    yield from _norm(f"{embeddings}.LayerNorm", d)
    for i in range(_number(config, "num_hidden_layers")):
        layer = f"bert.encoder.layer.{i}"
        for part in ("self.query", "self.key", "self.value", "output.dense"):
            yield from _linear(f"{layer}.attention.{part}", d, d, bias=True)
        yield from _norm(f"{layer}.attention.output.LayerNorm", d)
        yield from _linear(f"{layer}.intermediate.dense", inner, d, bias=True)
        yield from _linear(f"{layer}.output.dense", d, inner, bias=True)
        yield from _norm(f"{layer}.output.LayerNorm", d)
    yield from _linear("bert.pooler.dense", d, d, bias=True)
    yield from _linear("classifier", 2, d, bias=True)


def _qwen_sizes(config: Mapping[str, object]) -> Iterator[tuple[str, tuple[int, ...]]]:
    d, inner = _number(config, "hidden_size"), _number(config, "intermediate_size")
    heads, kv_heads = (_number(config, f"num_{n}_heads") for n in ("attention", "key_value"))
    kv = d // heads * kv_heads
    yield "model.embed_tokens.weight", (_number(config, "vocab_size"), d)
    for i in range(_number(config, "num_hidden_layers")):
        layer = f"model.layers.{i}"
        yield f"{layer}.input_layernorm.weight", (d,)
        for part, out in (("q", d), ("k", kv), ("v", kv)):
            yield from _linear(f"{layer}.self_attn.{part}_proj", out, d, bias=True)
        yield from _linear(f"{layer}.self_attn.o_proj", d, d, bias=False)
        yield f"{layer}.post_attention_layernorm.weight", (d,)
        for part in ("gate", "up"):
            yield from _linear(f"{layer}.mlp.{part}_proj", inner, d, bias=False)
        yield from _linear(f"{layer}.mlp.down_proj", d, inner, bias=False)
    yield "model.norm.weight", (d,)
