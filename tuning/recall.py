"""Frozen activations that a session recalls instead of computing them again."""

from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["FewActivations", "Recall"]

Rows = NDArray[np.int64]


class Recall(Protocol):
    """Activations below a cut, by example."""

    def gather(self, rows: Rows) -> Tensor:
        """Those of the examples `rows`, one after the other, ``[lines, d]``; a row may come
        twice."""
        ...


class FewActivations:
    """The activations of a few examples, computed now and kept in memory.

    Args:
        rows: the examples; a row may stand in it twice.
        compute: gives the activations of examples, ``[lines, d]``.
        lengths: how many lines each example has.
        most: examples that are computed at once (0: all).
    """

    def __init__(
        self,
        rows: Rows,
        compute: Callable[[Rows], Tensor],
        lengths: Callable[[Rows], Rows],
        *,
        most: int = 0,
    ) -> None:
        self._rows = np.unique(rows)
        step = most or len(self._rows)
        starts = range(0, len(self._rows), step)
        self._kept = torch.cat([compute(self._rows[i : i + step]) for i in starts])
        self._lengths = lengths(self._rows)
        self._starts = np.cumsum(self._lengths) - self._lengths

    def gather(self, rows: Rows) -> Tensor:
        """Those of the examples `rows`."""
        places = np.searchsorted(self._rows, rows)
        lengths = self._lengths[places]
        first = np.cumsum(lengths) - lengths
        lines = np.arange(lengths.sum()) + np.repeat(self._starts[places] - first, lengths)
        return self._kept[torch.from_numpy(lines).to(self._kept.device)]
