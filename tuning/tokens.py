"""Texts into token ids with the `tokenizers` library alone: no transformers on a device."""

from collections.abc import Iterator, Sequence
from itertools import chain, islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from fedloom.core.errors import ModelError
from fedloom.tuning.examples import TextExamples

__all__ = ["bare", "chunks", "ragged", "read_tokenizer", "tokenize", "tokenize_causal"]

CHUNK = 4096  # texts encoded at once: an encoding takes some kB until its ids are copied out


def read_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of a model folder.

    Raises:
        ModelError: the folder has no ``tokenizer.json``, or it is not one.
    """
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise ModelError(f"{path}: no such file; save the tokenizer in its fast form there")
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exception
        raise ModelError(f"{path}: not a tokenizer: {error}") from None


def tokenize(texts: Sequence[str], tokenizer: Tokenizer, max_tokens: int) -> TextExamples:
    """Token ids with the special tokens that the tokenizer adds; longer texts are cut.

    Equals transformers' ``AutoTokenizer(text, truncation=True, max_length=max_tokens)``.
    """
    own = bare(tokenizer)
    own.enable_truncation(max_tokens)
    return TextExamples(*ragged(_encode(own, texts, special=True), len(texts)))


def tokenize_causal(
    texts: Sequence[str],
    prompts: Sequence[str] | None,
    tokenizer: Tokenizer,
    *,
    max_tokens: int,
    eos: int | None = None,
) -> TextExamples:
    """Token ids for a causal language model: ``[prompt] text [eos]``.

    A prompt ends in white space: a newline is put after one that does not. Where both do not fit,
    the text keeps at least half of `max_tokens`, and the prompt loses its beginning. A text that
    is cut gets no `eos`: it did not end there.

    Args:
        texts: what is learned.
        prompts: what is read before it, or None.
        tokenizer: adds its special tokens once, at the start.
        max_tokens: at most so many tokens in all.
        eos: token id of the end of a text; None to add none.
    """
    own = bare(tokenizer)
    end = [] if eos is None else [eos]
    bodies = _encode(own, texts, special=prompts is None)
    ended = (ids if ids[-1:] == end else ids + end for ids in bodies)
    if prompts is None:
        return TextExamples(*ragged((ids[:max_tokens] for ids in ended), len(texts)))
    spaced = [p if p[-1:].isspace() or not p else f"{p}\n" for p in prompts]
    heads = _encode(own, spaced, special=True)
    pairs = [_fit(h, t, max_tokens) for h, t in zip(heads, ended, strict=True)]
    prompt_lengths = np.fromiter((len(h) for h, _ in pairs), np.int32, len(pairs))
    tokens, offsets = ragged((h + t for h, t in pairs), len(pairs))
    return TextExamples(tokens, offsets, None, prompt_lengths)


def _fit(head: list[int], text: list[int], room: int) -> tuple[list[int], list[int]]:
    text = text[: max(room - len(head), room // 2)]
    return head[max(0, len(head) + len(text) - room) :], text


def bare(tokenizer: Tokenizer) -> Tokenizer:
    """A copy that neither cuts nor pads; the caller's stays as it is."""
    own = Tokenizer.from_str(tokenizer.to_str())
    own.no_truncation()
    own.no_padding()
    return own


def chunks(texts: Sequence[str]) -> Iterator[list[str]]:
    """The texts, as many at once as are encoded together."""
    for start in range(0, len(texts), CHUNK):
        yield list(texts[start : start + CHUNK])


def _encode(tokenizer: Tokenizer, texts: Sequence[str], *, special: bool) -> Iterator[list[int]]:
    for chunk in chunks(texts):
        for encoding in tokenizer.encode_batch_fast(chunk, add_special_tokens=special):
            yield encoding.ids


def ragged(
    sequences: Iterator[list[int]], count: int
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Lists of ids as one array and its offsets, a chunk at a time."""
    parts: list[NDArray[np.int32]] = [np.zeros(0, np.int32)]
    lengths = np.zeros(count + 1, dtype=np.int64)
    for start in range(0, count, CHUNK):
        chunk = list(islice(sequences, CHUNK))
        lengths[start + 1 : start + 1 + len(chunk)] = [len(ids) for ids in chunk]
        parts.append(np.fromiter(chain.from_iterable(chunk), np.int32))
    return np.concatenate(parts), np.cumsum(lengths)
