"""Examples in memory: flat arrays, so that a million texts are a handful of objects."""

from dataclasses import dataclass, replace
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from fedloom.core.errors import DataError

__all__ = ["Examples", "ImageExamples", "TextExamples"]

Labels = NDArray[np.int64]


class Examples(Protocol):
    """What a trainer and a partition ask of examples of any kind."""

    def __len__(self) -> int: ...

    @property
    def labels(self) -> Labels | None:
        """int64 ``[N]`` class numbers, -1 for no label; None where the text itself is learned."""
        ...

    def lengths(self) -> NDArray[np.int64]:
        """int64 ``[N]``: tokens of each example; 1 for every image."""
        ...

    def take(self, rows: NDArray[np.int64]) -> Self:
        """The examples at `rows`, in that order; a row may come twice."""
        ...

    def labelled(self, labels: Labels) -> Self:
        """The same examples with other class numbers, int64 ``[N]``; -1 for no label."""
        ...


@dataclass(frozen=True, eq=False)
class TextExamples:
    """Tokenized texts, laid end to end.

    Attributes:
        tokens: int32 ``[T]``, token ids of all texts.
        offsets: int64 ``[N + 1]``: text i is ``tokens[offsets[i] : offsets[i + 1]]``.
        labels: int64 ``[N]`` class numbers, or None for a causal language model.
        prompt_lengths: int32 ``[N]``: so many tokens at the start of each text are read and not
            learned; None where there is no prompt.
    """

    tokens: NDArray[np.int32]
    offsets: NDArray[np.int64]
    labels: Labels | None = None
    prompt_lengths: NDArray[np.int32] | None = None

    def __post_init__(self) -> None:
        _check("tokens", self.tokens, np.int32, (int(self.offsets[-1]),))
        _check("offsets", self.offsets, np.int64, (len(self) + 1,))
        if self.labels is not None:
            _check("labels", self.labels, np.int64, (len(self),))
        if self.prompt_lengths is not None:
            _check("prompt_lengths", self.prompt_lengths, np.int32, (len(self),))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def lengths(self) -> NDArray[np.int64]:
        """int64 ``[N]``: tokens of each text."""
        return np.diff(self.offsets)

    def ids(self, row: int) -> NDArray[np.int32]:
        """int32: the token ids of one text."""
        return self.tokens[self.offsets[row] : self.offsets[row + 1]]

    def prompt_length(self, row: int) -> int:
        """Tokens at the start of one text that are read and not learned."""
        return 0 if self.prompt_lengths is None else int(self.prompt_lengths[row])

    def predictions(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """int64: tokens of each text that a language model predicts: all after the first known."""
        prompts = 0 if self.prompt_lengths is None else self.prompt_lengths[rows].astype(np.int64)
        return self.lengths()[rows] - np.maximum(prompts, 1)

    def take(self, rows: NDArray[np.int64]) -> "TextExamples":
        """The texts at `rows`, in that order."""
        starts = self.offsets[:-1][rows]
        lengths = self.offsets[1:][rows] - starts
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
        # the k-th token of the result lies as far from its text's start as in the source
        source = np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], lengths)
        return TextExamples(
            self.tokens[source],
            offsets,
            None if self.labels is None else self.labels[rows],
            None if self.prompt_lengths is None else self.prompt_lengths[rows],
        )

    def labelled(self, labels: Labels) -> "TextExamples":
        """The same texts with other class numbers."""
        return replace(self, labels=labels)


@dataclass(frozen=True, eq=False)
class ImageExamples:
    """Images of one size.

    Attributes:
        pixels: uint8 (0 to 255) or float32 ``[N, C, H, W]``.
        labels: int64 ``[N]`` class numbers.
    """

    pixels: NDArray[np.uint8] | NDArray[np.float32]
    labels: Labels

    def __post_init__(self) -> None:
        if self.pixels.ndim != 4 or self.pixels.dtype not in (np.uint8, np.float32):
            found = f"{self.pixels.dtype} {list(self.pixels.shape)}"
            raise DataError(f"pixels: expected uint8 or float32 [N, C, H, W], found {found}")
        _check("labels", self.labels, np.int64, (len(self.pixels),))

    def __len__(self) -> int:
        return len(self.pixels)

    def lengths(self) -> NDArray[np.int64]:
        """int64 ``[N]``, all 1: images cost the same."""
        return np.ones(len(self), dtype=np.int64)

    def floats(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """float32 ``[n, C, H, W]``, bytes scaled to [-1, 1] as transformers' processors do."""
        chosen = self.pixels[rows]
        if chosen.dtype == np.uint8:
            return chosen.astype(np.float32) / np.float32(127.5) - np.float32(1)
        return chosen.astype(np.float32)

    def take(self, rows: NDArray[np.int64]) -> "ImageExamples":
        """The images at `rows`, in that order."""
        return ImageExamples(self.pixels[rows], self.labels[rows])

    def labelled(self, labels: Labels) -> "ImageExamples":
        """The same images with other class numbers."""
        return replace(self, labels=labels)


def _check(
    name: str,
    array: NDArray[np.generic],
    dtype: type[np.generic],
    shape: tuple[int, ...],
) -> None:
    if array.dtype != dtype or array.shape != shape:
        found = f"{array.dtype} {list(array.shape)}"
        raise DataError(f"{name}: expected {dtype.__name__} {list(shape)}, found {found}")
