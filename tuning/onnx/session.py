"""Losses of one client's examples at several values of what trains, by forward passes alone."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedloom.backbones.onnx.blocks import BIAS, FLAT, GRID, HIDDEN
from fedloom.backbones.onnx.runner import Runner
from fedloom.backbones.onnx.weights import Floats
from fedloom.core.layout import Layout, Selector
from fedloom.core.types import Params
from fedloom.tuning.base import Rows
from fedloom.tuning.examples import TextExamples
from fedloom.tuning.onnx.head import HeadLosses, head_losses, pooled
from fedloom.tuning.onnx.model import OnnxModel
from fedloom.tuning.onnx.sites import feeds_of

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
        hidden: float32 ``[n, t, d]``, or ``[n, d]``, what the head reads, where no block changes.
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
        examples: the data, with labels.
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
            if self._above is None:
                x = pooled(x, lengths[some], self._model.task)
            hidden.append(x)
        return Near(rows, np.concatenate(hidden), lengths)

    def losses(self, near: Near, values: Floats, rows: Rows) -> HeadLosses:
        """The losses of batches, each with values of its own.

        Args:
            near: the examples.
            values: float32 ``[r, P]``, of the tensors that train.
            rows: r batches of equally many of the examples.
        """
        tensors = self._tensors(values)
        feeds = feeds_of(self._parts, tensors)
        places = np.searchsorted(near.rows, np.stack(rows))
        read = [
            self._read(near, places[:, some], feeds)
            for some in self._pieces(places.shape[1], len(places) * int(near.lengths.max()))
        ]
        labels = self._examples.labels
        assert labels is not None  # the model is a classifier
        return head_losses(np.concatenate(read, axis=1), tensors, labels[np.stack(rows)])

    def _read(self, near: Near, places: NDArray[np.int64], feeds: dict[str, Floats]) -> Floats:
        """What the head reads, ``[r, b, d]``, of the examples at places ``[r, b]``."""
        flat = places.reshape(-1)
        x, lengths = near.hidden[flat], near.lengths[flat]
        if self._above is not None:
            x = self._ran(self._above, x, lengths, feeds, rows=len(places))
            x = pooled(x, lengths, self._model.task)
        return x.reshape(*places.shape, -1)

    def _ran(
        self,
        runner: Runner,
        x: Floats,
        lengths: NDArray[np.int64],
        feeds: dict[str, Floats],
        *,
        rows: int = 1,
    ) -> Floats:
        """Some blocks: ``[n, t, d]``, whose examples are of so many rows, to the same."""
        shape, (n, t, d) = self._model.shape, x.shape
        flat = (rows, n // rows * t, d)
        hidden = np.where(np.arange(t) < lengths[:, None], np.float32(0), _HIDES)
        fixed = {
            HIDDEN: x.reshape(flat),
            BIAS: hidden[:, None, None, :],
            GRID: np.array((n, t, shape.heads, shape.head_dim), dtype=np.int64),
            FLAT: np.array(flat, dtype=np.int64),
        }
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
