"""Texts in a pattern, and the words that answer, as token ids."""

from collections.abc import Iterator, Sequence

from tokenizers import Encoding, Tokenizer

from fedloom.core.errors import ConfigError
from fedloom.core.patterns import MASK, Pattern
from fedloom.tuning.examples import TextExamples
from fedloom.tuning.tokens import bare, chunks, ragged

__all__ = ["mask_of", "tokenize_within", "word_tokens"]

MASKS = ("[MASK]", "<mask>")
"""What tokenizers of masked language models call the token that stands for what is asked."""
STEM = "."
"""What an answer follows where the pattern has nothing before it."""


def mask_of(tokenizer: Tokenizer) -> tuple[str, int]:
    """The mask token and its id.

    Raises:
        ConfigError: the tokenizer has none.
    """
    for token in MASKS:
        found = tokenizer.token_to_id(token)
        if found is not None:
            return token, found
    text = f"the backbone's tokenizer has no mask token ({' or '.join(MASKS)})"
    raise ConfigError(f"backbone.pooling = 'mask': {text}; choose mean, last or model")


def tokenize_within(
    texts: Sequence[str], tokenizer: Tokenizer, max_tokens: int, pattern: Pattern
) -> TextExamples:
    """Token ids of texts in a pattern, with the special tokens that the tokenizer adds.

    They are those of the pattern with the text in its place; where these are too many, the text
    loses its end, and the pattern nothing. A mask token inside a text counts as white space.

    Args:
        texts: what stands in the place of ``{text}``.
        tokenizer: the backbone's.
        max_tokens: at most so many tokens in all.
        pattern: with ``{mask}`` in it where the model predicts at a place.

    Raises:
        ConfigError: the pattern leaves the text no room, or asks for a mask token that there is
            not.
    """
    own = bare(tokenizer)
    if MASK in pattern.before + pattern.after:
        token, _ = mask_of(own)
        pattern = pattern.masked(token)
        texts = [text.replace(token, " ") for text in texts]
    room = max_tokens - len(own.encode(pattern.before + pattern.after).ids)
    if room < 1:
        raise _too_long(max_tokens, max_tokens - room)
    return TextExamples(*ragged(_cut(texts, own, max_tokens, pattern), len(texts)))


def _cut(
    texts: Sequence[str], tokenizer: Tokenizer, most: int, pattern: Pattern
) -> Iterator[list[int]]:
    start = len(pattern.before)
    for chunk in chunks(texts):
        filled = [f"{pattern.before}{text}{pattern.after}" for text in chunk]
        encodings = tokenizer.encode_batch(filled)
        for text, encoding in zip(chunk, encodings, strict=True):
            yield _fitted(encoding, start, start + len(text), most)


def _fitted(encoding: Encoding, start: int, stop: int, most: int) -> list[int]:
    """The ids without as many of the last tokens in ``[start, stop)`` as are too many."""
    ids: list[int] = encoding.ids
    over = len(ids) - most
    if over <= 0:
        return ids
    inside = [i for i, (a, b) in enumerate(encoding.offsets) if start <= a < b <= stop]
    if over > len(inside):
        raise _too_long(most, len(ids) - len(inside))
    dropped = set(inside[-over:])
    return [token for i, token in enumerate(ids) if i not in dropped]


def _too_long(most: int, taken: int) -> ConfigError:
    text = f"the pattern alone takes {taken} tokens; the text needs some too"
    return ConfigError(f"backbone.max_tokens = {most}: {text}")


def word_tokens(tokenizer: Tokenizer, words: Sequence[str], pattern: Pattern) -> list[list[int]]:
    """The token ids of each word as it stands in the place of the answer.

    Raises:
        ConfigError: a word does not begin a token of its own there.
    """
    own = bare(tokenizer)
    stem, spaced = pattern.stem
    stem = stem or (STEM if spaced else "")
    lead: list[int] = own.encode(stem, add_special_tokens=False).ids
    found = []
    for word in words:
        whole = f"{stem}{' ' if spaced else ''}{word.strip()}"
        ids: list[int] = own.encode(whole, add_special_tokens=False).ids
        if ids[: len(lead)] != lead or len(ids) == len(lead):
            text = f"{word!r} begins no token of its own after {stem!r}"
            raise ConfigError(f"backbone.words = {tuple(words)!r}: {text}")
        found.append(ids[len(lead) :])
    return found
