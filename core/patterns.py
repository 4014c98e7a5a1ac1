"""The pattern around a text, and the words that a classifier answers with.

A pattern turns a text into a phrase that a model can go on with, and a verbalizer names each class
by a word: PET (Schick and Schütze, EACL 2021, section 3), where both are tasks' own.
"""

from dataclasses import dataclass
from typing import Self

from fedloom.core.errors import require

__all__ = ["MASK", "TEXT", "Pattern", "check_pattern", "check_words"]

TEXT = "{text}"
MASK = "{mask}"
PLACED = ("last", "mask")
"""Poolings that read one place of a text, by a head of ours."""


@dataclass(frozen=True)
class Pattern:
    """What stands before and after a text.

    Attributes:
        before: may hold ``{mask}``.
        after: likewise.
    """

    before: str = ""
    after: str = ""

    @classmethod
    def of(cls, pattern: str) -> Self:
        """The pattern that is written so; empty for the text alone."""
        before, _, after = pattern.partition(TEXT)
        return cls(before, after)

    def masked(self, token: str) -> "Pattern":
        """The pattern with a token in the place of ``{mask}``."""
        return Pattern(self.before.replace(MASK, token), self.after.replace(MASK, token))

    @property
    def stem(self) -> tuple[str, bool]:
        """What stands right before the answer, and whether white space is between them.

        The answer comes at ``{mask}``, or else at the end. White space is taken off the stem; it is
        empty where the answer follows the text, or comes first of all.
        """
        place = next((part for part in (self.after, self.before) if MASK in part), None)
        lead = self.after if place is None else place.partition(MASK)[0]
        return lead.rstrip(), place is None or lead != lead.rstrip()


def check_pattern(pattern: str, *, task: str, pooling: str) -> None:
    """Refuse a pattern that a task or a pooling cannot have.

    Raises:
        ConfigError: it names the text not once, or ``{mask}`` other than once where the model
            predicts there and never elsewhere; or there is no text.
    """
    classify = task == "classify"
    if pooling in PLACED:
        text = "mean or model, for this task"
        require(classify, "backbone.pooling", pooling, f"{text} (backbone.task = {task!r})")
    if pattern:
        text = f"none: it is of backbone.task = 'classify', and the task is {task!r}"
        require(classify, "backbone.pattern", pattern, text)
        require(pattern.count(TEXT) == 1, "backbone.pattern", pattern, f"{TEXT} once in it")
    if pooling == "mask":
        text = f"{MASK} once in it, for backbone.pooling = 'mask'"
        require(pattern.count(MASK) == 1, "backbone.pattern", pattern, text)
    else:
        text = f"no {MASK}: it is of backbone.pooling = 'mask', and the pooling is {pooling!r}"
        require(MASK not in pattern, "backbone.pattern", pattern, text)


def check_words(words: tuple[str, ...], *, pattern: str, task: str, pooling: str) -> None:
    """Refuse a head of words where none can be made.

    Raises:
        ConfigError: the task or the pooling has no such head, a word is empty or comes twice, or
            the pattern ends in the white space that words bring.
    """
    text = f"zeros or normal: words are of backbone.task = 'classify', and the task is {task!r}"
    require(task == "classify", "backbone.head_init", "words", text)
    allowed = "mean, last or mask, for backbone.head_init = 'words'"
    require(pooling in ("mean", *PLACED), "backbone.pooling", pooling, allowed)
    require(all(map(str.strip, words)), "backbone.words", words, "words that are not empty")
    require(len(set(words)) == len(words), "backbone.words", words, "each word once")
    if pooling == "last":
        text = "no white space at its end: the words bring their own"
        require(pattern == pattern.rstrip(), "backbone.pattern", pattern, text)
