import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from fedloom.core.errors import ConfigError, DataError
from fedloom.core.job import DataConfig
from fedloom.tuning.data import (
    ImageExamples,
    Reading,
    TextExamples,
    corpus_from_rows,
    load_examples,
)

FIXTURES = Path(__file__).parents[1] / "fixtures"


def letters() -> Tokenizer:
    """One token a letter: a is 0, b is 1, ..."""
    vocabulary = {chr(97 + index): index for index in range(26)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="z"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    return tokenizer


ROWS = [
    {"text": "ab", "label": "x", "client": "p", "split": "train"},
    {"text": "c", "label": "y", "client": "q", "split": "train"},
    {"text": "d", "label": None, "client": "q", "split": "train"},
    {"text": "ef", "label": "x", "client": "p", "split": "test"},
    {"text": "g", "label": "y", "client": "r", "split": "valid"},
]
CONFIG = DataConfig(client="client", split="split")
READING = Reading(tokenizer=letters())


def test_rows_become_a_corpus() -> None:
    corpus = corpus_from_rows(ROWS, CONFIG, READING)
    assert isinstance(corpus.train, TextExamples)
    assert corpus.train.tokens.tolist() == [0, 1, 2]
    assert corpus.train.labels is not None
    assert corpus.train.labels.tolist() == [0, 1]
    assert corpus.client_codes is not None
    assert corpus.client_codes.tolist() == [0, 1]
    assert corpus.client_names == ("p", "q")
    assert corpus.classes == ("x", "y")
    assert corpus.dropped == 1
    assert (len(corpus.valid), len(corpus.test)) == (1, 1)


def test_a_file_and_its_rows_are_the_same_corpus(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    config = DataConfig(path=str(path), client="client", split="split")
    file, rows = load_examples(config, READING), corpus_from_rows(ROWS, CONFIG, READING)
    assert isinstance(file.train, TextExamples)
    assert isinstance(rows.train, TextExamples)
    assert file.train.tokens.tolist() == rows.train.tokens.tolist()
    assert file.client_names == rows.client_names


def test_limits_on_clients_do_not_change_the_classes() -> None:
    rows = [*ROWS, {"text": "h", "label": "x", "client": "p", "split": "train"}]
    config = DataConfig(client="client", split="split", max_clients=1)
    corpus = corpus_from_rows(rows, config, READING)
    assert corpus.client_names == ("p",)
    assert corpus.classes == ("x", "y")
    assert len(corpus.train) == 2


def test_a_causal_corpus_has_prompts_and_no_labels() -> None:
    rows = [{"q": "a", "a": "bc", "split": "train"}, {"q": "a", "a": "", "split": "train"}]
    config = DataConfig(text="a", prompt="q", split="split")
    reading = Reading("causal-lm", letters(), eos=25)
    corpus = corpus_from_rows(rows, config, reading)
    assert isinstance(corpus.train, TextExamples)
    # "a", the newline that parts them (unknown: z), "bc", end
    assert corpus.train.tokens.tolist() == [0, 25, 1, 2, 25]
    assert corpus.train.prompt_lengths is not None
    assert corpus.train.prompt_lengths.tolist() == [2]
    assert corpus.train.labels is None
    assert corpus.classes == ()
    assert corpus.client_codes is None
    assert corpus.dropped == 1
    assert len(corpus.test) == 0


def test_the_text_fixture() -> None:
    config = DataConfig(str(FIXTURES / "text_era.jsonl.gz"), client="client", split="split")
    corpus = load_examples(config, READING)
    assert (len(corpus.train), len(corpus.valid), len(corpus.test)) == (640, 0, 160)
    assert corpus.classes == ("1790-1829", "1830-1864", "1865-1900", "1901-1945")
    assert len(corpus.client_names) == 16


def test_the_image_fixture_under_its_own_array_names() -> None:
    config = DataConfig(str(FIXTURES / "fashion_1k.npz"), split="test")
    corpus = load_examples(config, Reading("classify-image"))
    assert isinstance(corpus.train, ImageExamples)
    assert corpus.train.pixels.shape == (800, 1, 28, 28)
    assert corpus.train.pixels.dtype == np.uint8
    assert len(corpus.test) == 200
    assert corpus.classes == tuple("0123456789")


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((4, 5, 6), (1, 5, 6)), ((4, 3, 5, 6), (3, 5, 6)), ((4, 5, 6, 3), (3, 5, 6))],
)
def test_images_become_channels_first(shape: tuple[int, ...], expected: tuple[int, ...]) -> None:
    data = {"pixels": np.zeros(shape), "label": [0, 1, 0, 1], "s": ["train"] * 4}
    config = DataConfig(text="pixels", split="s")
    train = corpus_from_rows(data, config, Reading("classify-image")).train
    assert isinstance(train, ImageExamples)
    assert train.pixels.shape[1:] == expected
    assert train.pixels.dtype == np.float32


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (np.zeros((1, 9)), r"data: pixels \[1, 9\]: expected \[N, H, W\], "),
        (np.zeros((1, 9, 9, 9)), r"pixels \[1, 9, 9, 9\]: expected"),
        (np.full((1, 2, 2), 256), r"pixels: expected floats, or whole numbers from 0 to 255"),
        (np.full((1, 2, 2), np.nan), r"pixels: a pixel is NaN or infinite"),
        (np.full((1, 2, 2), "x"), r"pixels: expected floats, or whole numbers"),
    ],
)
def test_pixels_of_another_form_are_explained(pixels: np.ndarray, message: str) -> None:
    data = {"pixels": pixels, "label": [0], "s": ["train"]}
    with pytest.raises(DataError, match=message):
        corpus_from_rows(data, DataConfig(text="pixels", split="s"), Reading("classify-image"))


def test_a_value_that_is_no_text_is_explained() -> None:
    rows = [{"text": "a", "label": 0}, {"text": 3, "label": 0}]
    with pytest.raises(DataError, match=r"data, line 2: text = 3: expected text, found int"):
        corpus_from_rows(rows, DataConfig(), READING)


def test_text_needs_a_tokenizer_and_a_file_needs_a_path() -> None:
    with pytest.raises(ConfigError, match=r"backbone\.task = 'classify': needs a tokenizer"):
        corpus_from_rows(ROWS, CONFIG, Reading())
    with pytest.raises(ConfigError, match=r"data\.path = '': expected a CSV, JSONL"):
        load_examples(DataConfig(), READING)


def test_a_task_needs_its_columns_named() -> None:
    with pytest.raises(ConfigError, match=r"data\.label = '': the name of a column, for classify"):
        corpus_from_rows(ROWS, DataConfig(label=""), READING)
    with pytest.raises(ConfigError, match=r"data\.text = '': the name of a column, for causal-lm"):
        corpus_from_rows(ROWS, DataConfig(text="", label=""), Reading("causal-lm", letters()))


def test_reading_data_does_not_load_torch() -> None:
    code = "import sys, fedloom.tuning.data; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
