"""Frozen blocks that anyone of a federation may train through: nothing here moves.

What is kept of a step is what went in; the gradient runs the blocks again, so that a step costs no
graph while its gradient is waited for (Petals: Borzunov et al., ACL 2023 demo, section 2.2, whose
servers keep nothing at all and are sent the input again).
"""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from fedloom.backbones.base import Packing
from fedloom.backbones.fused import FusedBackbone
from fedloom.core.errors import ConfigError, SplitError
from fedloom.tuning.far import FarLosses
from fedloom.tuning.targets import Places

__all__ = ["FrozenHost"]


@dataclass(eq=False)
class FrozenHost:
    """A `Host` of a span of blocks. For one thread.

    Attributes:
        backbone: the span alone, its first block counted 0.
        ends: nothing comes after its last block but the final norm.
        most: bytes of what is kept for gradients; beyond them the oldest is let go.
    """

    backbone: FusedBackbone
    ends: bool
    most: int = 1 << 31
    _held: OrderedDict[tuple[str, int], tuple[Tensor, Packing]] = field(default_factory=OrderedDict)

    @staticmethod
    def of(backbone: FusedBackbone, first: int, last: int) -> "FrozenHost":
        """Host blocks `first` up to `last`, and let go of the others.

        Raises:
            ConfigError: the backbone has no such blocks.
        """
        depth = backbone.shape.depth
        if not 0 <= first < last <= depth:
            raise ConfigError(f"blocks = {first}-{last}: expected 0 <= first < last <= {depth}")
        span = replace(backbone, layers=backbone.layers[first:last], head=None, pooler=None)
        return FrozenHost(span, ends=last == depth)

    def part(self, first: int, last: int) -> "FrozenHost":
        """Some of these blocks, counted from 0; what is kept for gradients is kept together."""
        ends = self.ends and last == len(self.backbone.layers)
        span = replace(self.backbone, layers=self.backbone.layers[first:last])
        return FrozenHost(span, ends, self.most, self._held)

    @property
    def held_bytes(self) -> int:
        """Memory of the steps that wait for their gradient."""
        return sum(hidden.nbytes for hidden, _ in self._held.values())

    def version(self, key: str) -> int:
        """Nothing steps."""
        return 0

    def lane(self, key: str) -> str:
        """Nothing is anybody's own."""
        return ""

    def kept(self, key: str) -> dict[str, Tensor]:
        """Nothing changes."""
        return {}

    def moved(self, key: str) -> Tensor:
        """Nothing moves."""
        return torch.zeros(1, 0)

    def load(self, key: str, state: Mapping[str, Tensor], done: int) -> None:
        """There is nothing to go on with."""

    def join(self, key: str) -> None:
        """Everyone may."""

    def forward(
        self, key: str, step: int, hidden: Tensor, packing: Packing, *, train: bool
    ) -> Tensor:
        """See `Host.forward`."""
        own = hidden.detach().to(self.backbone.device, self.backbone.dtype)
        with torch.no_grad():
            out = self._run(own, packing)
        if train:
            self._held.pop((key, step), None)
            self._held[key, step] = own, packing
            while len(self._held) > 1 and self.held_bytes > self.most:
                self._held.popitem(last=False)
        return out

    def backward(self, key: str, step: int, grad: Tensor) -> Tensor:
        """See `Host.backward`."""
        held = self._held.pop((key, step), None)
        if held is None:
            raise SplitError(f"step {step}: not held; send it again", code="evicted")
        leaf = held[0].requires_grad_()
        out = self._run(leaf, held[1])
        (found,) = torch.autograd.grad(out, leaf, grad.to(out.device, out.dtype))
        return found

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
        """Labels stay at home.

        Raises:
            SplitError: always.
        """
        raise SplitError("labels stay at home: only blocks are hosted here", code="labels")

    def evict(self, key: str, step: int | None = None) -> None:
        """See `Host.evict`."""
        for name in [n for n in self._held if n[0] == key and step in (None, n[1])]:
            del self._held[name]

    def leave(self, key: str) -> None:
        """See `Host.leave`."""
        self.evict(key)

    def _run(self, hidden: Tensor, packing: Packing) -> Tensor:
        trim = self.ends and packing.read is not None
        own = packing.to(self.backbone.device)
        return self.backbone.run(hidden, own, last=len(self.backbone.layers), trim=trim)
