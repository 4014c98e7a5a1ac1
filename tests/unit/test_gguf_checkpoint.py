import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer

from fedloom.backbones.gguf_checkpoint import convert
from fedloom.core.errors import ModelError

gguf = pytest.importorskip("gguf")

TOKENS = ["<end>", "a", "b", "1", "2", "12", "ab"]  # "12" and "ab" are merges
WIDTH, HEADS, KV_HEADS, VOCABULARY = 8, 2, 1, len(TOKENS)


def weight(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


TENSORS = {
    "token_embd.weight": weight(VOCABULARY, WIDTH),
    "blk.0.attn_q.weight": weight(WIDTH, WIDTH),
    "blk.0.attn_k.weight": weight(WIDTH // 2, WIDTH),
    "blk.0.ffn_down.weight": weight(WIDTH, 16),
    "output_norm.weight": weight(WIDTH),
}


def write(path: Path, *, pre: str = "smollm") -> Path:
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(1)
    writer.add_feed_forward_length(16)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(0.5)
    writer.add_rope_freq_base(100.0)
    writer.add_vocab_size(VOCABULARY)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(TOKENS)
    writer.add_token_types([3, 1, 1, 1, 1, 1, 1])
    writer.add_token_merges(["1 2", "a b"])
    for add in ("bos", "eos", "unk", "pad"):
        getattr(writer, f"add_{add}_token_id")(0)
    writer.add_chat_template("{{ messages }}")
    for name, tensor in TENSORS.items():
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_weights_get_their_names_type_and_order(tmp_path: Path) -> None:
    convert(write(tmp_path / "m.gguf"), tmp_path)
    found = load_file(tmp_path / "model.safetensors")
    assert set(found) == {
        "model.embed_tokens.weight",
        "model.layers.0.self_attn.q_proj.weight",
        "model.layers.0.self_attn.k_proj.weight",
        "model.layers.0.mlp.down_proj.weight",
        "model.norm.weight",
    }
    assert {tensor.dtype for tensor in found.values()} == {torch.bfloat16}
    down = torch.from_numpy(TENSORS["blk.0.ffn_down.weight"]).bfloat16()
    assert torch.equal(found["model.layers.0.mlp.down_proj.weight"], down)
    # heads of 4 rows; in GGUF their order is 0 2 1 3, so row i here is row [0, 2, 1, 3][i] there
    query = torch.from_numpy(TENSORS["blk.0.attn_q.weight"])[[0, 2, 1, 3, 4, 6, 5, 7]]
    assert torch.equal(found["model.layers.0.self_attn.q_proj.weight"], query.bfloat16())


def test_the_config_says_what_the_file_says(tmp_path: Path) -> None:
    convert(write(tmp_path / "m.gguf"), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["model_type"] == "llama"
    assert config["head_dim"] == WIDTH // HEADS
    assert config["num_key_value_heads"] == KV_HEADS
    assert config["rope_theta"] == 100.0
    assert config["rms_norm_eps"] == 0.5
    assert config["tie_word_embeddings"] is True


def test_the_tokenizer_splits_digits_and_knows_its_special_tokens(tmp_path: Path) -> None:
    convert(write(tmp_path / "m.gguf"), tmp_path)
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert tokenizer.encode("ab12<end>").tokens == ["ab", "1", "2", "<end>"]
    assert tokenizer.decode([6, 3, 4]) == "ab12"
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert settings["eos_token"] == "<end>"


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"of kind \('llama', 'gpt2', 'other'\), expected"):
        convert(write(tmp_path / "m.gguf", pre="other"), tmp_path)
