"""Losses of one client's examples at several values of what trains, by forward passes alone."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedloom.backbones.onnx.blocks import BIAS, COS, FLAT, GRID, HIDDEN, SIN
from fedloom.backbones.onnx.chain import Chain
from fedloom.backbones.onnx.matrices import Floats
from fedloom.backbones.onnx.rotations import rotations
from fedloom.core.layout import Layout, Selector
from fedloom.core.types import Params
from fedloom.tuning.base import Rows
from fedloom.tuning.examples import TextExamples
from fedloom.tuning.onnx.head import head_losses, pooled
from fedloom.tuning.onnx.losses import BatchLosses, WordLosses
from fedloom.tuning.onnx.model import OnnxModel
from fedloom.tuning.onnx.sites import feeds_of
from fedloom.tuning.targets import next_tokens, padded_starts

__all__ = ["PASS", "Near", "OnnxSession"]

PASS = 256
"""Tokens that run at once at most: products are as fast with more, and memory is scarce here."""

_HIDES = np.float32(-1e30)
"""Added to the score of a place without a token: its exponential is 0."""


@dataclass(frozen=True, eq=False)
class Near:
    """What a few examples are below all that trains, and what each is.

    Attributes:
        rows: int64 ``[n]``, ascending: which examples.
        hidden: float32 ``[n, t, d]``, or ``[n, d]``, what a classifier's head reads, where no block
            changes.
        lengths: int64 ``[n]``: tokens of each.
    """

    rows: NDArray[np.int64]
    hidden: Floats
    lengths: NDArray[np.int64]


class OnnxSession:
    """A model set up to train some tensors (or none) on some examples.

    Args:
        model: the model.
        params: the global model; tensors that do not train keep these values.
        train: what trains.
        examples: the data, with labels where the model is a classifier.
        at_once: tokens of a pass at most, but for a single example of more.

    Attributes:
        trained: what trains.
        at_once: see above.
    """

    def __init__(
        self,
        model: OnnxModel,
        params: Params,
        train: Selector,
        examples: TextExamples,
        *,
        at_once: int = PASS,
    ) -> None:
        self.at_once = at_once
        self._model, self._params, self._examples = model, params, examples
        self.trained: Layout = params.layout.select(train)
        self._parts = model.active(params, self.trained)
        self._below, self._above = model.runners(self._parts)
        self._lengths = examples.lengths()

    def tokens(self, rows: NDArray[np.int64]) -> int:
        """Tokens in the examples `rows`."""
        return int(self._lengths[rows].sum())

    def flops(self, tokens: int) -> float:
        """Floating-point operations of one forward pass over so many tokens."""
        return self._model.flops_per_token * tokens

    def near(self, rows: NDArray[np.int64]) -> Near:
        """Run some examples through all that never changes."""
        rows = np.unique(rows)
        lengths = self._lengths[rows]
        longest = int(lengths.max())
        hidden: list[Floats] = []
        for some in self._pieces(len(rows), longest):
            ids = np.zeros((len(rows[some]), longest), dtype=np.int64)
            for row, own in zip(ids, rows[some], strict=True):
                row[: self._lengths[own]] = self._examples.ids(int(own))
            x = self._model.embedding.run(ids)
            if self._below is not None:
                x = self._ran(self._below, x, lengths[some], {})
            if self._above is None and self._model.head is not None:
                x = pooled(x, lengths[some], self._model.task)
            hidden.append(x)
        return Near(rows, np.concatenate(hidden), lengths)

    def losses(self, near: Near, values: Floats, rows: Rows) -> BatchLosses:
        """The losses of batches, each with values of its own.

        Args:
            near: the examples.
            values: float32 ``[r, P]``, of the tensors that train.
            rows: r batches of equally many of the examples.
        """
        tensors = self._tensors(values)
        feeds = feeds_of(self._parts, tensors)
        places = np.searchsorted(near.rows, np.stack(rows))
        pieces = self._pieces(places.shape[1], len(places) * int(near.lengths.max()))
        if self._model.head is None:
            return _joined([self._words(near, places[:, some], feeds) for some in pieces])
        read = [self._read(near, places[:, some], feeds) for some in pieces]
        own = [tensors[spec.name] for spec in self._model.head.specs]
        labels = self._examples.labels
        assert labels is not None  # the model is a classifier
        return head_losses(np.concatenate(read, axis=1), own, labels[np.stack(rows)])

    def _read(self, near: Near, places: NDArray[np.int64], feeds: dict[str, Floats]) -> Floats:
        """What the head reads, ``[r, b, d]``, of the examples at places ``[r, b]``."""
        x = self._last(near, places, feeds)
        if self._above is not None:
            x = pooled(x, near.lengths[places.reshape(-1)], self._model.task)
        return x.reshape(*places.shape, -1)

    def _words(self, near: Near, places: NDArray[np.int64], feeds: dict[str, Floats]) -> WordLosses:
        """The losses of the words in examples at places ``[r, b]``."""
        x, rows = self._last(near, places, feeds), near.rows[places]
        starts = padded_starts(list(rows), x.shape[1])
        words = next_tokens(self._examples, list(rows), starts)
        read = x.reshape(-1, x.shape[-1])[words.index]
        each, predicted = self._model.words.losses(read, words.target)
        counts = np.maximum(self._examples.predictions(rows.reshape(-1)), 0)
        owner = np.repeat(np.arange(rows.size), counts)

        def of(what: NDArray[np.float64]) -> NDArray[np.float64]:
            return np.asarray(np.bincount(owner, what, rows.size).reshape(rows.shape))

        correct = of((predicted == words.target).astype(np.float64)).astype(np.int64)
        return WordLosses(of(each), counts.reshape(rows.shape), correct)

    def _last(self, near: Near, places: NDArray[np.int64], feeds: dict[str, Floats]) -> Floats:
        """Hidden states of the examples at places ``[r, b]`` above all that changes."""
        flat = places.reshape(-1)
        x, lengths = near.hidden[flat], near.lengths[flat]
        if self._above is None:
            return x
        return self._ran(self._above, x, lengths, feeds, rows=len(places))

    def _ran(
        self,
        runner: Chain,
        x: Floats,
        lengths: NDArray[np.int64],
        feeds: dict[str, Floats],
        *,
        rows: int = 1,
    ) -> Floats:
        """Some blocks: ``[n, t, d]``, whose examples are of so many rows, to the same."""
        shape, (n, t, d) = self._model.shape, x.shape
        fixed: dict[str, Floats | NDArray[np.int64]] = {
            HIDDEN: x.reshape(rows, n // rows * t, d),
            BIAS: _bias(lengths, t, causal=shape.causal),
            GRID: np.array((n, t, -1, shape.head_dim), dtype=np.int64),
            FLAT: np.array((rows, n // rows * t, -1), dtype=np.int64),
        }
        if shape.rope_theta is not None:
            fixed[COS], fixed[SIN] = rotations(t, shape.rope_theta, shape.head_dim)
        return runner({**fixed, **feeds}).reshape(n, t, d)

    def _tensors(self, values: Floats) -> dict[str, Floats]:
        """Every tensor of the model, ``[r, ...]`` where it trains and else ``[1, ...]``."""
        whole = self._params.layout.unflatten(self._params.vector)
        found = {name: tensor[None] for name, tensor in whole.items()}
        for spec in self.trained:
            found[spec.name] = values[:, self.trained.span(spec.name)].reshape(-1, *spec.shape)
        return found

    def _pieces(self, count: int, tokens: int) -> Sequence[slice]:
        """Slices of so many examples of so many tokens each that a pass has room for."""
        step = max(self.at_once // max(tokens, 1), 1)
        return [slice(start, start + step) for start in range(0, count, step)]


def _bias(lengths: NDArray[np.int64], t: int, *, causal: bool) -> Floats:
    """What is added to scores: places without a token are hidden, or all that come later.

    Where texts are padded at their end, the latter hides padding from all tokens.
    """
    place = np.arange(t)
    seen = place[None, :] <= place[:, None] if causal else (place < lengths[:, None])[:, None]
    hidden = np.where(seen, np.float32(0), _HIDES)
    return hidden[None, None] if causal else hidden[:, None]


def _joined(parts: Sequence[WordLosses]) -> WordLosses:
    return WordLosses(
        np.concatenate([part.sums for part in parts], axis=1),
        np.concatenate([part.counts for part in parts], axis=1),
        np.concatenate([part.correct for part in parts], axis=1),
    )
