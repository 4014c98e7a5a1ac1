"""Frozen activations that a run keeps, shared by its stages, evaluations and references."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedloom.core.layout import Selector
from fedloom.core.types import Params
from fedloom.tuning.base import CohortModel, Session
from fedloom.tuning.examples import Examples
from fedloom.tuning.fused_model import FusedModel
from fedloom.tuning.prefix import CacheLimits, PrefixCache

__all__ = ["Activations"]


@dataclass(eq=False)
class Activations:
    """Caches by examples and cut: below the cut nothing ever changes, whoever asks.

    Attributes:
        model: whose activations they are.
        memory: bytes of memory that all caches together may take.
        disk: bytes of disk that those which memory does not hold may take.
        folder: where their files go.
    """

    model: CohortModel
    memory: int
    disk: int
    folder: Path
    _caches: dict[tuple[int, int], PrefixCache | None] = field(default_factory=dict)

    def session(
        self,
        params: Params,
        train: Selector,
        examples: Examples,
        *,
        order: NDArray[np.int64] | None = None,
        keep: bool = True,
    ) -> Session:
        """The model set up for some examples, recalling what is kept of them.

        Args:
            params: the global model.
            train: what trains from it.
            examples: the data.
            order: int64 ``[N]``, in which order examples are likely to be needed.
            keep: whether to recall and keep; without, examples are expected to be seen once.
        """
        model = self.model
        if not isinstance(model, FusedModel):
            return model.session(params, train, examples)
        key = (id(examples), model.cut(model.active(params, train)))
        if not keep:
            # Not even what an earlier stage has kept: a resumed run would not have it, and
            # activations computed in other company may differ in their last bits.
            return model.session(params, train, examples)
        if key not in self._caches:
            self._caches[key] = model.prefix_cache(
                params, train, examples, order=order, limits=self._left()
            )
        return model.session(params, train, examples, self._caches[key])

    @property
    def held(self) -> int:
        """Bytes of memory that its caches may come to hold."""
        return sum(cache.nbytes for cache in self._kept if not cache.on_disk)

    @property
    def _kept(self) -> list[PrefixCache]:
        return [cache for cache in self._caches.values() if cache is not None]

    def _left(self) -> CacheLimits:
        disk = sum(cache.nbytes for cache in self._kept if cache.on_disk)
        return CacheLimits(max(self.memory - self.held, 0), max(self.disk - disk, 0), self.folder)
