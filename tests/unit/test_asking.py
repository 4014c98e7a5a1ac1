from pathlib import Path

import pytest
from answers import bytes_pairs, pieces

from fedloom.core.errors import ConfigError
from fedloom.core.job import BackboneConfig
from fedloom.tuning.asking import task_of
from fedloom.tuning.base import Task

CLASSES = ("sport", "art")
PLACE = "the film : {text} it was {mask}."


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    pieces().save(str(tmp_path / "tokenizer.json"))
    return tmp_path


@pytest.fixture
def causal(tmp_path: Path) -> Path:
    folder = tmp_path / "causal"
    folder.mkdir()
    bytes_pairs().save(str(folder / "tokenizer.json"))
    return folder


def test_without_words_no_tokenizer_is_read(tmp_path: Path) -> None:
    config = BackboneConfig(pooling="last", normalize=True, head_init="normal")
    expected = Task("classify", 2, "last", normalize=True, head_init="normal")
    assert task_of(config, tmp_path, CLASSES) == expected


def test_words_for_an_encoder_are_whole_texts_in_the_pattern(folder: Path) -> None:
    tokenizer = pieces()
    plain = task_of(BackboneConfig(head_init="words"), folder, CLASSES)
    assert plain.words == tuple(tuple(tokenizer.encode(name).ids) for name in CLASSES)
    config = BackboneConfig(head_init="words", pattern="news about {text}", words=("a film", "art"))
    texts = ("news about a film", "news about art")
    expected = tuple(tuple(tokenizer.encode(text).ids) for text in texts)
    assert task_of(config, folder, CLASSES).words == expected


def test_words_at_a_mask_are_one_token_each(folder: Path) -> None:
    tokenizer = pieces()
    config = BackboneConfig(
        head_init="words", pooling="mask", pattern=PLACE, words=("great", "bad")
    )
    task = task_of(config, folder, CLASSES)
    assert task.words == tuple((tokenizer.token_to_id(word),) for word in ("great", "bad"))
    assert task.mask == tokenizer.token_to_id("[MASK]")


def test_words_of_a_language_model_are_their_first_tokens(causal: Path) -> None:
    config = BackboneConfig(head_init="words", pooling="last", words=("greatest", "fine"))
    task = task_of(config, causal, CLASSES)
    assert [bytes_pairs().decode([token]) for (token,) in task.words] == [" great", " fine"]


def test_words_unlike_the_classes_are_refused(folder: Path) -> None:
    config = BackboneConfig(head_init="words", words=("great", "bad", "fine"))
    text = r"backbone\.words = .*3 words; one for each of the 2 classes \(sport, art\)"
    with pytest.raises(ConfigError, match=text):
        task_of(config, folder, CLASSES)


def test_a_word_of_two_tokens_is_refused_at_a_mask(folder: Path) -> None:
    words = ("great", "badly")
    config = BackboneConfig(head_init="words", pooling="mask", pattern=PLACE, words=words)
    with pytest.raises(ConfigError, match=r"words of one token; 'badly' has 2"):
        task_of(config, folder, CLASSES)


def test_words_that_begin_alike_are_refused(causal: Path) -> None:
    config = BackboneConfig(head_init="words", pooling="last", words=("great", "greatest"))
    text = r"words that differ in their first token; 'great' and 'greatest' do not"
    with pytest.raises(ConfigError, match=text):
        task_of(config, causal, CLASSES)
