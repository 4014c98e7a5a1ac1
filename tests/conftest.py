"""Small random models of each family, written once per session as users' folders are."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

os.environ.setdefault("HF_HUB_OFFLINE", "1")
torch.set_num_threads(1)

SIZES = {
    "bert": {
        "hidden_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "vocab_size": 120,
        "max_position_embeddings": 64,
        "pad_token_id": 0,
    },
    "llama": {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 48,
        "vocab_size": 120,
        "max_position_embeddings": 64,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    },
    "gpt2": {
        "n_embd": 32,
        "n_layer": 2,
        "n_head": 4,
        "vocab_size": 120,
        "n_positions": 64,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    },
    "vit": {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "image_size": 8,
        "patch_size": 4,
        "num_channels": 1,
    },
}
SIZES["qwen2"] = {**SIZES["llama"]}


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> "dict[tuple[str, str], Path]":
    """Folders by (family, auto class), made when first asked for."""
    return Folders(tmp_path_factory)


class Folders(dict[tuple[str, str], Path]):
    def __init__(self, factory: pytest.TempPathFactory) -> None:
        super().__init__()
        self._factory = factory

    def __missing__(self, key: tuple[str, str]) -> Path:
        family, auto = key
        import transformers

        folder = self._factory.mktemp(f"{family}-{auto}")
        config = transformers.AutoConfig.for_model(family, num_labels=3, **SIZES[family])
        with torch.random.fork_rng():
            torch.manual_seed(11)
            model = getattr(transformers, auto).from_config(config)
            for parameter in model.parameters():  # biases and norms that are not trivial
                parameter.data.add_(0.05 * torch.randn_like(parameter))
        model.save_pretrained(folder)
        json.loads((folder / "config.json").read_text())
        self[key] = folder
        return folder


@pytest.fixture(scope="session")
def ragged() -> "tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.int64]]":
    """Tokens, offsets and labels of 40 texts of 3 to 17 tokens."""
    rng = np.random.default_rng(5)
    lengths = rng.integers(3, 18, size=40)
    offsets = np.concatenate(([0], np.cumsum(lengths))).astype(np.int64)
    tokens = rng.integers(3, 120, size=int(offsets[-1])).astype(np.int32)
    return tokens, offsets, rng.integers(0, 3, size=40).astype(np.int64)
