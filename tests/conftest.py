"""Small random models of each family, written once per session as users' folders are."""

import gc
import gzip
import json
import os
import signal
import string
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from store_parts import Clock
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from fedloom.server.database import Database

os.environ.setdefault("HF_HUB_OFFLINE", "1")
torch.set_num_threads(1)
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as shells start what is in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish() -> None:
    keep_what_is_imported()


def keep_what_is_imported() -> None:
    """Devices collect garbage before they count memory: what only imports left is passed over."""
    gc.collect()
    gc.freeze()


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
        keep_what_is_imported()
        self[key] = folder
        return folder


@pytest.fixture(scope="session")
def text_model(model_folder: "dict[tuple[str, str], Path]") -> "dict[str, Path]":
    """Models with a tokenizer beside them, as a text job needs: ``classify`` and ``causal-lm``."""
    folders = {
        "classify": model_folder["bert", "AutoModel"],
        "causal-lm": model_folder["llama", "AutoModelForCausalLM"],
    }
    tokenizer = word_pieces()
    for folder in folders.values():
        tokenizer.save(str(folder / "tokenizer.json"))
    return folders


def word_pieces() -> Tokenizer:
    """A WordPiece tokenizer of the models' 120 ids: letters, and words of the fixture's texts.

    The library's trainer breaks ties by chance, so that each run would have another model.
    """
    path = Path(__file__).parent / "fixtures" / "text_era.jsonl.gz"
    with gzip.open(path, "rt", encoding="utf-8") as file:
        texts = [json.loads(line)["text"] for line in file]
    normalizer, splitter = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    words = Counter[str]()
    for text in texts:
        words.update(w for w, _ in splitter.pre_tokenize_str(normalizer.normalize_str(text)))
    frequent = sorted(words, key=lambda word: (-words[word], word))
    letters = [*string.ascii_lowercase, ".", ","]
    pieces = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", *letters, *(f"##{one}" for one in letters[:26])]
    pieces += [word for word in frequent if word not in pieces]
    vocabulary = {piece: number for number, piece in enumerate(pieces[:120])}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, splitter
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 2), ("[CLS]", 1))
    return tokenizer


@pytest.fixture(scope="session")
def ragged() -> "tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.int64]]":
    """Tokens, offsets and labels of 40 texts of 3 to 17 tokens."""
    rng = np.random.default_rng(5)
    lengths = rng.integers(3, 18, size=40)
    offsets = np.concatenate(([0], np.cumsum(lengths))).astype(np.int64)
    tokens = rng.integers(3, 120, size=int(offsets[-1])).astype(np.int32)
    return tokens, offsets, rng.integers(0, 3, size=40).astype(np.int64)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    """A server's own state, in an empty folder."""
    opened = Database.open(tmp_path, exclusive=True)
    yield opened
    opened.close()


@pytest.fixture
def clock() -> Clock:
    return Clock()
