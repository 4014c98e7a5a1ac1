"""The blocks that changed most, as many as a budget of bytes holds.

Opportunistic block dropout (Chen, Chen, Wu and Yu, "FedOBD: Opportunistic Block Dropout for
Efficiently Training Large-scale Neural Networks through Federated Learning", IJCAI 2023, section
4.1 and algorithm 1). The importance of a block b is its mean block difference,

    MBD_b = ||W_b' - W_b||_2 / numel_b.

Blocks are taken by falling importance while the budget holds, and one that does not fit is passed
over. A block that is not sent is absent from the delta: not zero (`WeightedMean(absent=...)`).

| bytes | what                                                                              |
|-------|-----------------------------------------------------------------------------------|
| ...   | which tensors are sent (`core.tensor_sets`)                                       |
| ...   | of each block: the length of its frame (varint), the frame of another codec       |

Unlike the paper, the budget is one of bytes after coding, headers included, not of numbers.
"""

from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar, cast

import numpy as np

from fedloom.codecs.base import Codec
from fedloom.codecs.frame import OVERHEAD, read_frame, write_frame
from fedloom.codecs.values import peak
from fedloom.core.errors import ConfigError, require
from fedloom.core.layout import Layout, Vector
from fedloom.core.octets import Octets, varint
from fedloom.core.registry import Component, create
from fedloom.core.seeds import derive, stream
from fedloom.core.tensor_sets import read_tensors, tensors
from fedloom.core.types import Delta, Payload

__all__ = ["BlockDrop"]

_ORDINARY = 1e-3
"""Largest change of a number in an update of ordinary size."""


@dataclass(frozen=True)
class BlockDrop:
    """Sends some blocks of an update, each coded by another codec.

    A frame never has more bytes than the budget; one without any block is all that a budget below
    every block leaves.

    Attributes:
        rate: the share of the update's bytes, as the other codec codes it, that is not sent; the
            paper's dropout rate.
        budget: bytes of a frame at most, in place of the rate; 0 for none.
        inner: the codec of a block.

    Raises:
        ConfigError: an option is out of range.
    """

    rate: float = 0.3
    budget: int = 0
    inner: Component = field(default_factory=lambda: Component("nnadq"))

    name: ClassVar[str] = "block-drop"

    def __post_init__(self) -> None:
        require(0 <= self.rate < 1, "rate", self.rate, "0 or more, below 1")
        require(self.budget >= 0, "budget", self.budget, "0 (by the rate) or more")
        _ = self._inner

    def check(self, layout: Layout) -> None:
        """Find a budget that holds no block of an update of ordinary size.

        Args:
            layout: the tensors that clients are to send.

        Raises:
            ConfigError: not even the smallest block fits.
        """
        noise = stream(0, "codec.block-drop").uniform(layout.size) * 2 - 1
        delta = Delta(layout, (noise * _ORDINARY).astype(np.float32))
        costs = {
            name: _cost(self._coded(delta, block, seed=0))
            for name, block in _blocks(layout).items()
        }
        budget = self._budget(layout, sum(costs.values()))
        smallest = min(costs, key=lambda name: costs[name], default="")
        least = _empty(layout) + costs.get(smallest, 0)
        if least > budget:
            text = f"the smallest block, {smallest!r}, takes some {least:,} bytes"
            field = f"budget = {self.budget}" if self.budget else f"rate = {self.rate}"
            raise ConfigError(f"block-drop: {field}: an update of {budget:,} bytes; {text}")

    def encode(self, delta: Delta, *, seed: int = 0) -> Payload:
        """Pack the blocks that are worth most; `seed` goes to their codec.

        Raises:
            CodecError: a value cannot be represented by the codec of the blocks.
        """
        peak(self.name, delta)
        delta = delta.dense()
        layout, blocks = delta.layout, list(_blocks(delta.layout).values())
        frames = [self._coded(delta, block, seed=seed) for block in blocks]
        left = self._budget(layout, sum(map(_cost, frames))) - _empty(layout)
        importance = [_mean_difference(delta, block) for block in blocks]
        kept: set[int] = set()
        for i in sorted(range(len(blocks)), key=lambda i: -importance[i]):
            if _cost(frames[i]) <= left:
                left -= _cost(frames[i])
                kept.add(i)
        names = {name for i in kept for name in blocks[i].names}
        part = Layout(tuple(spec for spec in layout if spec.name in names))
        pieces = (varint(len(frames[i])) + frames[i] for i in sorted(kept))
        return write_frame(self.name, layout, b"".join((tensors(part, layout), *pieces)))

    def decode(self, payload: Payload, layout: Layout) -> Delta:
        """Unpack; the result has the tensors of the blocks that were sent.

        Raises:
            CodecError: the frame is truncated, corrupt or of another layout.
        """
        octets = Octets(read_frame(payload, self.name, layout), self.name)
        parts = []
        for block in _blocks(read_tensors(octets, layout)).values():
            frame = bytes(octets.take(octets.count()))
            parts.append(self._inner.decode(Payload(self._inner.name, frame), block).dense())
        octets.end()
        vectors = [np.zeros(0, dtype=np.float32), *(part.vector for part in parts)]
        return Delta(Layout.concat(part.layout for part in parts), np.concatenate(vectors))

    def error_bound(self, delta: Delta) -> float:
        """That of the codec of the blocks, over the blocks that are sent."""
        delta = delta.dense()
        parts = (_part(delta, block) for block in _blocks(delta.layout).values())
        return max((self._inner.error_bound(part) for part in parts), default=0.0)

    @cached_property
    def _inner(self) -> Codec:
        return cast(Codec, create("codecs", self.inner))

    def _coded(self, delta: Delta, block: Layout, *, seed: int) -> bytes:
        own = derive(seed, f"codec.block-drop.{block.names[0]}") % 2**63
        return self._inner.encode(_part(delta, block), seed=own).frame

    def _budget(self, layout: Layout, costs: int) -> int:
        """Bytes of a frame at most, where all blocks take `costs`."""
        whole = _empty(layout) + costs
        return max(self.budget or int(whole * (1 - self.rate)), _empty(layout))


def _blocks(layout: Layout) -> dict[str, Layout]:
    """The blocks of a layout by name, in order; a tensor without a block is one by itself."""
    found: dict[str, list[str]] = {}
    for spec in layout:
        found.setdefault(spec.block or spec.name, []).append(spec.name)
    specs = {spec.name: spec for spec in layout}
    return {name: Layout(tuple(specs[n] for n in names)) for name, names in found.items()}


def _part(delta: Delta, block: Layout) -> Delta:
    return Delta(block, delta.layout.gather(delta.vector, block))


def _mean_difference(delta: Delta, block: Layout) -> float:
    """The norm of a block's change over how many numbers it has."""
    change: Vector = delta.layout.gather(delta.vector, block)
    return float(np.linalg.norm(change.astype(np.float64))) / max(block.size, 1)


def _cost(frame: bytes) -> int:
    """What a block adds to a frame."""
    return len(varint(len(frame))) + len(frame)


def _empty(layout: Layout) -> int:
    """Bytes of a frame without blocks."""
    return OVERHEAD + len(tensors(Layout(()), layout))
