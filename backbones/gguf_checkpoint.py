"""A GGUF checkpoint of a Llama-type model as safetensors, ``config.json`` and ``tokenizer.json``.

Written against the GGUF reader and `tokenizers` alone: the conversion in transformers drops the
rule that splits digits, so that numbers would be cut into other tokens than in pretraining.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor

from fedloom.core.errors import ModelError

__all__ = ["convert", "facts_of", "heads_of", "name_of", "turned", "write_beside"]

CONTROL = 3  # type of a special token in GGUF's table

NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def convert(source: Path, into: Path) -> None:
    """Write the bfloat16 checkpoint of a GGUF file, in transformers' naming.

    Args:
        source: a Llama-type GGUF file with a byte-level BPE tokenizer of the SmolLM kind.
        into: folder that gets ``model.safetensors``, ``config.json`` and ``tokenizer.json``.

    Raises:
        ModelError: the file is of another kind.
    """
    from gguf import GGUFReader  # only where the extra is installed

    reader = GGUFReader(source)
    facts = facts_of(reader, source)
    tensors = dict(_tensors(reader, facts))
    save_file(tensors, into / "model.safetensors", metadata={"format": "pt"})
    write_beside(facts, into, tied="lm_head.weight" not in tensors)


def facts_of(reader: Any, source: Path) -> dict[str, Any]:
    """What a GGUF file says of the model.

    Raises:
        ModelError: the file is of a kind that is not read here.
    """
    facts = {name: field.contents() for name, field in reader.fields.items()}
    kind = tuple(facts.get(key) for key in _KIND)
    if kind != tuple(_KIND.values()):
        raise ModelError(f"{source}: a GGUF file of kind {kind}, expected {tuple(_KIND.values())}")
    return facts


def write_beside(
    facts: Mapping[str, Any], into: Path, *, tied: bool, more: Mapping[str, object] | None = None
) -> None:
    """Write the configuration, with some keys more, and the tokenizer."""
    config = _config(facts, tied=tied) | dict(more or {})
    (into / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    _tokenizer(facts).save(str(into / "tokenizer.json"))
    settings = _tokenizer_settings(facts)
    (into / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n", "utf-8")


_KIND = {
    "general.architecture": "llama",
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.pre": "smollm",
}


def _tensors(reader: Any, facts: Mapping[str, Any]) -> Iterator[tuple[str, Tensor]]:
    from gguf.quants import dequantize

    for entry in reader.tensors:
        weight = torch.from_numpy(np.array(dequantize(entry.data, entry.tensor_type)))
        weight = turned(weight, heads_of(entry.name, facts))
        yield name_of(entry.name), weight.to(torch.bfloat16).contiguous()


def name_of(entry: str) -> str:
    """A tensor's name in transformers' naming, by GGUF's."""
    *block, part, _ = entry.split(".")
    return f"model.layers.{block[1]}.{NAMES[part]}.weight" if block else f"{NAMES[part]}.weight"


def heads_of(entry: str, facts: Mapping[str, Any]) -> int:
    """Attention heads of a query or key matrix, by GGUF's name of a tensor; 0 for any other."""
    counts = {
        "attn_q": facts["llama.attention.head_count"],
        "attn_k": facts["llama.attention.head_count_kv"],
    }
    return int(counts.get(entry.split(".")[-2], 0))


def turned(rows: Tensor, heads: int) -> Tensor:
    """Rows ``[heads * d, ...]`` of a query or key matrix in rotary halves again.

    GGUF keeps the two coordinates that a rotation mixes next to each other; transformers keeps
    them d/2 apart. With no heads rows are as they were.
    """
    if not heads:
        return rows
    count, *rest = rows.shape
    pairs = rows.reshape(heads, count // heads // 2, 2, *rest)
    return pairs.transpose(1, 2).reshape(count, *rest)


def _config(facts: Mapping[str, Any], *, tied: bool) -> dict[str, object]:
    width, heads = facts["llama.embedding_length"], facts["llama.attention.head_count"]
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": facts["tokenizer.ggml.bos_token_id"],
        "eos_token_id": facts["tokenizer.ggml.eos_token_id"],
        "pad_token_id": facts["tokenizer.ggml.padding_token_id"],
        "head_dim": width // heads,
        "hidden_act": "silu",
        "hidden_size": width,
        "initializer_range": 0.02,
        "intermediate_size": facts["llama.feed_forward_length"],
        "max_position_embeddings": facts["llama.context_length"],
        "mlp_bias": False,
        "num_attention_heads": heads,
        "num_hidden_layers": facts["llama.block_count"],
        "num_key_value_heads": facts["llama.attention.head_count_kv"],
        "rms_norm_eps": facts["llama.attention.layer_norm_rms_epsilon"],
        "rope_theta": facts["llama.rope.freq_base"],
        "tie_word_embeddings": tied,
        "torch_dtype": "bfloat16",
        "vocab_size": facts["llama.vocab_size"],
    }


def _tokenizer(facts: Mapping[str, Any]) -> Tokenizer:
    tokens = facts["tokenizer.ggml.tokens"]
    merges = [tuple(pair.split(" ")) for pair in facts["tokenizer.ggml.merges"]]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    # the "smollm" rule: every digit for itself, then GPT-2's pattern over bytes
    digits = pre_tokenizers.Digits(individual_digits=True)
    in_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, in_bytes])
    tokenizer.decoder = decoders.ByteLevel()
    special = zip(tokens, facts["tokenizer.ggml.token_type"], strict=True)
    tokenizer.add_special_tokens(
        [AddedToken(t, special=True, normalized=False) for t, kind in special if kind == CONTROL]
    )
    return tokenizer


def _tokenizer_settings(facts: Mapping[str, Any]) -> dict[str, object]:
    tokens = facts["tokenizer.ggml.tokens"]
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": tokens[facts["tokenizer.ggml.bos_token_id"]],
        "eos_token": tokens[facts["tokenizer.ggml.eos_token_id"]],
        "pad_token": tokens[facts["tokenizer.ggml.padding_token_id"]],
        "unk_token": tokens[facts["tokenizer.ggml.unknown_token_id"]],
        "model_max_length": facts["llama.context_length"],
        "chat_template": facts["tokenizer.chat_template"],
    }
