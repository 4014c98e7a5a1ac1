import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from fedloom.core.errors import DataError
from fedloom.core.job import DataConfig
from fedloom.tuning.data import Corpus, Reading, TextExamples, corpus_from_rows, own_examples

WORDS = ("ab", "c", "d", "ef", "g", "hij", "k", "lm")
ROWS = [
    {"text": text, "label": "xy"[i % 2], "client": "pq"[i // 4], "split": split}
    for i, (text, split) in enumerate(
        zip(WORDS, ("train", "train", "test", "train") * 2, strict=True)
    )
]
CONFIG = DataConfig(client="client", split="split", classes=("x", "y"))


def letters() -> Tokenizer:
    """One token a letter: a is 0, b is 1, ..."""
    vocabulary = {chr(97 + index): index for index in range(26)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="z"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    return tokenizer


READING = Reading(tokenizer=letters())


def owned(client: str, config: DataConfig = CONFIG) -> Corpus:
    """What a client's own rows give, without a word about whose they are."""
    rows = [{k: v for k, v in row.items() if k != "client"} for row in ROWS]
    mine = [row for row, whole in zip(rows, ROWS, strict=True) if whole["client"] == client]
    return own_examples(mine, config, READING)


def same(one: object, other: object) -> bool:
    assert isinstance(one, TextExamples)
    assert isinstance(other, TextExamples)
    pairs = ((one.tokens, other.tokens), (one.offsets, other.offsets), (one.labels, other.labels))
    return all(np.array_equal(np.asarray(a), np.asarray(b)) for a, b in pairs)


@pytest.mark.parametrize("limit", [0, 2])
def test_they_are_the_clients_part_of_the_file_where_all_lie(limit: int) -> None:
    config = replace(CONFIG, max_examples=limit)
    everybody = corpus_from_rows(ROWS, config, READING)
    assert everybody.client_codes is not None
    for code, client in enumerate(everybody.client_names):
        rows = np.flatnonzero(everybody.client_codes == code)
        assert same(owned(client, config).train, everybody.train.take(rows))


def test_a_file_and_its_rows_are_the_same(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    assert same(
        own_examples(str(path), CONFIG, READING).train, own_examples(ROWS, CONFIG, READING).train
    )


def test_a_client_may_lack_a_class_but_has_no_other() -> None:
    only = [row for row in ROWS if row["label"] == "y"]
    found = own_examples(only, CONFIG, READING)
    assert found.classes == ("x", "y")
    assert isinstance(found.train, TextExamples)
    assert set(np.asarray(found.train.labels).tolist()) == {1}
    with pytest.raises(DataError, match="'z'"):
        own_examples([{**ROWS[0], "label": "z"}], CONFIG, READING)


def test_limits_on_clients_are_not_a_clients_affair() -> None:
    config = replace(CONFIG, max_clients=1)
    assert len(owned("p", config).train) == len(owned("q", config).train) == 3
