"""A host of far blocks whose computation is timed, or left out."""

import time
from collections.abc import Callable, Mapping
from typing import TypeVar

import torch
from torch import Tensor

from fedloom.backbones.base import Packing
from fedloom.server.split_host import Host
from fedloom.tuning.far import FarLosses
from fedloom.tuning.targets import Places

__all__ = ["Timed"]

Found = TypeVar("Found")


class Timed:
    """A `Host` around another one.

    Args:
        host: the other one.
        computes: its legs are done; else what came goes back as it is, and nothing moves.

    Attributes:
        seconds: that legs have taken in the other one, of all sessions.
    """

    def __init__(self, host: Host, computes: bool) -> None:
        self._host, self._computes, self.seconds = host, computes, 0.0

    def version(self, key: str) -> int:
        """See `Host.version`."""
        return self._host.version(key)

    def lane(self, key: str) -> str:
        """See `Host.lane`."""
        return self._host.lane(key)

    def moved(self, key: str) -> Tensor:
        """See `Host.moved`."""
        return self._host.moved(key)

    def join(self, key: str) -> None:
        """See `Host.join`."""
        self._host.join(key)

    def forward(
        self, key: str, step: int, hidden: Tensor, packing: Packing, *, train: bool
    ) -> Tensor:
        """See `Host.forward`."""
        if not self._computes:
            return hidden
        return self._timed(lambda: self._host.forward(key, step, hidden, packing, train=train))

    def backward(self, key: str, step: int, grad: Tensor) -> Tensor:
        """See `Host.backward`."""
        if not self._computes:
            return grad
        return self._timed(lambda: self._host.backward(key, step, grad))

    def losses(
        self,
        key: str,
        step: int,
        hidden: Tensor,
        packing: Packing,
        places: Places,
        *,
        train: bool,
    ) -> tuple[FarLosses, Tensor]:
        """See `Host.losses`."""
        if not self._computes:
            one, each = torch.ones(1), torch.ones(len(places.index))
            return FarLosses(one, one, one, each, each.long()), hidden
        host = self._host
        return self._timed(lambda: host.losses(key, step, hidden, packing, places, train=train))

    def evict(self, key: str, step: int | None = None) -> None:
        """See `Host.evict`."""
        self._host.evict(key, step)

    def kept(self, key: str) -> dict[str, Tensor]:
        """See `Host.kept`."""
        return self._host.kept(key)

    def load(self, key: str, state: Mapping[str, Tensor], done: int) -> None:
        """See `Host.load`."""
        self._host.load(key, state, done)

    def leave(self, key: str) -> None:
        """See `Host.leave`."""
        self._host.leave(key)

    def _timed(self, call: Callable[[], Found]) -> Found:
        began = time.perf_counter()
        try:
            return call()
        finally:
            self.seconds += time.perf_counter() - began
