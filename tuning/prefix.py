"""Frozen activations, computed once: what lies below the lowest adapter never changes.

The activations of an example below the cut are the same in every epoch and round, so they are kept
in memory, or in a file on disk, up to a limit. They are computed for aligned groups of examples, so
that their bits do not depend on who asked first: a resumed run ends in the same bits.
"""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["GROUP", "CacheLimits", "PrefixCache"]

GROUP = 16


@dataclass(frozen=True)
class CacheLimits:
    """What a cache may take.

    Attributes:
        memory: bytes of memory.
        disk: bytes of disk, for a cache that memory does not hold.
        folder: where its file goes (None: the system's temporary folder).
    """

    memory: int
    disk: int = 0
    folder: Path | None = None


class PrefixCache:
    """Activations below a cut, by example.

    Args:
        sizes: int64 ``[N]``: rows of activation that each example has (tokens, or 1 if pooled).
        width: d.
        dtype: of the activations.
        compute: activations ``[sum of sizes, d]`` of the examples it is given.
        order: int64 ``[N]``: examples in the order in which they are likely to be asked for
            (client by client); neighbours are computed together.
        limits: what the cache may take.

    Attributes:
        on_disk: whether it is a file.
    """

    def __init__(
        self,
        sizes: NDArray[np.int64],
        width: int,
        dtype: torch.dtype,
        compute: Callable[[NDArray[np.int64]], Tensor],
        *,
        order: NDArray[np.int64],
        limits: CacheLimits,
    ) -> None:
        self._compute, self._order = compute, order
        self._place = np.empty(len(order), dtype=np.int64)
        self._place[order] = np.arange(len(order))
        ends = np.cumsum(sizes[order])
        self._starts = np.concatenate(([0], ends))
        row_bytes = width * dtype.itemsize
        self.on_disk = on_disk = (
            int(ends[-1]) * row_bytes > limits.memory and limits.disk > limits.memory
        )
        limit = limits.disk if on_disk else limits.memory
        fits = int(np.searchsorted(ends * row_bytes, limit, side="right"))
        # Whole groups only: a group that is computed is kept, and one that is not kept is
        # computed for the asked examples alone.
        self._kept = fits if fits == len(order) else fits // GROUP * GROUP
        self._done = np.zeros(-(-self._kept // GROUP), dtype=bool)
        rows = int(self._starts[self._kept])
        self._rows = (
            _on_disk(rows, width, dtype, limits.folder)
            if on_disk
            else torch.empty(rows, width, dtype=dtype)  # pages are taken when first written
        )

    @property
    def nbytes(self) -> int:
        """Bytes that the cache may come to hold."""
        return self._rows.numel() * self._rows.element_size()

    def gather(self, examples: NDArray[np.int64]) -> Tensor:
        """Activations of some examples, laid end to end: ``[sum of their sizes, d]``."""
        places = self._place[examples]
        kept = places < self._kept
        if not kept.all():
            return self._mixed(examples, kept)
        self._fill(np.unique(places // GROUP))
        return self._rows[torch.from_numpy(self._index(places))]

    def _index(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        starts, counts = self._starts[places], self._starts[places + 1] - self._starts[places]
        shift = np.repeat(starts - np.concatenate(([0], np.cumsum(counts)[:-1])), counts)
        index: NDArray[np.int64] = np.arange(len(shift)) + shift
        return index

    def _fill(self, groups: NDArray[np.int64]) -> None:
        """Compute what is missing. Two threads may compute the same group: to the same bits."""
        for group in groups[~self._done[groups]]:
            first, last = group * GROUP, min((group + 1) * GROUP, self._kept)
            span = slice(int(self._starts[first]), int(self._starts[last]))
            self._rows[span] = self._compute(self._order[first:last]).cpu()
            self._done[group] = True

    def _mixed(self, examples: NDArray[np.int64], kept: NDArray[np.bool_]) -> Tensor:
        """Some examples do not fit: compute those one group of one, always alone."""
        pieces = [
            self.gather(examples[i : i + 1])
            if kept[i]
            else self._compute(examples[i : i + 1]).cpu()
            for i in range(len(examples))
        ]
        return torch.cat(pieces)


def _on_disk(rows: int, width: int, dtype: torch.dtype, folder: Path | None) -> Tensor:
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(prefix="activations-", dir=folder, delete=False) as file:
        file.truncate(rows * width * dtype.itemsize)
        path = Path(file.name)
    mapped = torch.from_file(str(path), shared=True, size=rows * width, dtype=dtype)
    path.unlink()  # the mapping keeps it alive, and nothing is left behind after a crash
    return mapped.view(rows, width)
