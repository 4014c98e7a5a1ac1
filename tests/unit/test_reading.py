import json
from pathlib import Path

import pytest

from fedloom.core.errors import ModelError
from fedloom.core.job import BackboneConfig
from fedloom.tuning.reading import reading_of


def config(task: str, max_tokens: int = 32) -> BackboneConfig:
    return BackboneConfig(task=task, max_tokens=max_tokens)


def test_a_classifier_reads_by_the_backbones_tokenizer(text_model: dict[str, Path]) -> None:
    reading = reading_of(config("classify"), text_model["classify"])
    assert (reading.task, reading.max_tokens, reading.eos) == ("classify", 32, None)
    assert reading.tokenizer is not None
    assert reading.tokenizer.token_to_id("[PAD]") == 0


def test_a_language_model_ends_its_texts(text_model: dict[str, Path]) -> None:
    # the fixture's configuration says eos_token_id = 2
    assert reading_of(config("causal-lm"), text_model["causal-lm"]).eos == 2


@pytest.mark.parametrize(
    ("said", "eos"),
    [({"eos_token_id": [5, 6]}, 5), ({"eos_token_id": 0}, 0), ({"eos_token_id": None}, None)],
)
def test_the_end_of_a_text_as_configurations_say_it(
    text_model: dict[str, Path], tmp_path: Path, said: dict[str, object], eos: int | None
) -> None:
    tokenizer = text_model["causal-lm"] / "tokenizer.json"
    (tmp_path / "tokenizer.json").write_bytes(tokenizer.read_bytes())
    assert reading_of(config("causal-lm"), tmp_path).eos is None
    (tmp_path / "config.json").write_text(json.dumps(said))
    assert reading_of(config("causal-lm"), tmp_path).eos == eos


def test_images_need_no_tokenizer_and_texts_do(tmp_path: Path) -> None:
    assert reading_of(config("classify-image"), tmp_path).tokenizer is None
    with pytest.raises(ModelError, match="tokenizer"):
        reading_of(config("classify"), tmp_path)
