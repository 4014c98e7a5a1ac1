"""Token ids here equal those of transformers' tokenizers on real text."""

import gzip
import json
from pathlib import Path

import pytest
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from fedloom.tuning.examples import TextExamples
from fedloom.tuning.tokens import read_tokenizer, tokenize, tokenize_causal

transformers = pytest.importorskip("transformers")

FIXTURE = Path(__file__).parents[1] / "fixtures" / "text_era.jsonl.gz"
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
LIMIT = 48


@pytest.fixture(scope="module")
def texts() -> list[str]:
    with gzip.open(FIXTURE, "rt", encoding="utf-8") as file:
        found = [json.loads(line)["text"] for line in file][:200]
    return [*found, "", " ", "Ünïcode — 日本 123"]


def ids(examples: TextExamples) -> list[list[int]]:
    bounds = zip(examples.offsets, examples.offsets[1:], strict=False)
    return [examples.tokens[start:end].tolist() for start, end in bounds]


def test_wordpiece(texts: list[str], tmp_path: Path) -> None:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.train_from_iterator(
        texts, trainers.WordPieceTrainer(vocab_size=900, special_tokens=SPECIAL)
    )
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.enable_padding(length=128)
    save(tokenizer, tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    expected = theirs(texts, truncation=True, max_length=LIMIT)["input_ids"]
    assert ids(tokenize(texts, read_tokenizer(tmp_path), LIMIT)) == expected
    assert max(map(len, expected)) == LIMIT


def test_byte_level_bpe(texts: list[str], tmp_path: Path) -> None:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=900,
            special_tokens=["<end>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        ),
    )
    save(tokenizer, tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    expected = theirs(texts, truncation=True, max_length=LIMIT)["input_ids"]
    ours = tokenize_causal(texts, None, read_tokenizer(tmp_path), max_tokens=LIMIT)
    assert ids(ours) == expected


def save(tokenizer: Tokenizer, folder: Path) -> None:
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
