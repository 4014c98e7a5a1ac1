"""From what a job says of its backbone to the task: what is read of a text, and which answer."""

from collections.abc import Sequence
from pathlib import Path

from fedloom.core.errors import ConfigError
from fedloom.core.job import BackboneConfig
from fedloom.core.patterns import Pattern
from fedloom.tuning.base import Task
from fedloom.tuning.patterned import mask_of, tokenize_within, word_tokens
from fedloom.tuning.tokens import read_tokenizer

__all__ = ["task_of"]

Words = tuple[tuple[int, ...], ...]


def task_of(backbone: BackboneConfig, folder: Path, classes: Sequence[str]) -> Task:
    """What a backbone is trained for.

    Args:
        backbone: what the job says of it.
        folder: where it is, with its tokenizer.
        classes: their names, in order.

    Raises:
        ConfigError: the words are not as many as the classes, no token each for a masked language
            model, or begin with the same token; or the tokenizer has no mask.
        ModelError: the folder has no tokenizer, and one is needed.
    """
    words = _words(backbone, folder, classes) if backbone.head_init == "words" else ()
    masked = backbone.pooling == "mask"
    return Task(
        kind=backbone.task,
        classes=len(classes),
        pooling=backbone.pooling,
        normalize=backbone.normalize,
        head_init=backbone.head_init,
        mask=mask_of(read_tokenizer(folder))[1] if masked else -1,
        words=words,
    )


def _words(backbone: BackboneConfig, folder: Path, classes: Sequence[str]) -> Words:
    """The token ids of each class's word; see `Task`."""
    words = backbone.words or tuple(classes)
    if len(words) != len(classes):
        text = f"one for each of the {len(classes)} classes ({', '.join(classes)})"
        raise ConfigError(f"backbone.words = {words!r}: {len(words)} words; {text}")
    tokenizer, pattern = read_tokenizer(folder), Pattern.of(backbone.pattern)
    if backbone.pooling == "mean":
        texts = tokenize_within(words, tokenizer, backbone.max_tokens, pattern)
        return tuple(tuple(int(i) for i in texts.ids(row)) for row in range(len(words)))
    found = word_tokens(tokenizer, words, pattern)
    if backbone.pooling == "mask":
        for word, ids in zip(words, found, strict=True):
            if len(ids) != 1:
                text = f"words of one token; {word!r} has {len(ids)}"
                raise ConfigError(f"backbone.words = {words!r}: {text}")
    firsts: dict[int, str] = {}
    for word, (first, *_) in zip(words, found, strict=True):
        if first in firsts:
            text = f"words that differ in their first token; {firsts[first]!r} and {word!r} do not"
            raise ConfigError(f"backbone.words = {words!r}: {text}")
        firsts[first] = word
    return tuple((ids[0],) for ids in found)
