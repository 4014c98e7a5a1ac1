"""Read the blocks that a stage serves, and no others; how quick they are here."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from fedloom.backbones.block import Block
from fedloom.backbones.fused import load_fused
from fedloom.backbones.kernels.buffer import Buffer
from fedloom.backbones.kernels.rounding import rounded
from fedloom.backbones.lengths import Lengths, packing_of
from fedloom.core.errors import ConfigError
from fedloom.server.frozen_host import FrozenHost

__all__ = ["Hosted", "blocks_per_second", "hosted"]

TOKENS = 256
"""Of the batch that a stage is measured with."""
_LONGEST = 64


@dataclass(frozen=True)
class Hosted:
    """Blocks that are there to be served.

    Attributes:
        host: of them.
        weights: the model's name: the digest of its files.
        first: the first block.
        last: the block after the last one.
        depth: blocks of the model.
        bits: of a weight.
        nbytes: memory of all weights.
        longest: tokens of an example at most.
    """

    host: FrozenHost
    weights: str
    first: int
    last: int
    depth: int
    bits: int
    nbytes: int
    longest: int

    def part(self, first: int, last: int) -> FrozenHost:
        """Some of the blocks, as the model counts them."""
        return self.host.part(first - self.first, last - self.first)


def hosted(
    folder: Path, first: int, last: int, *, dtype: torch.dtype, device: torch.device, bits: int = 0
) -> Hosted:
    """Read blocks `first` up to `last` of a model, one after the other.

    Args:
        folder: of the whole model.
        first: the first block, from 0.
        last: the block after the last one.
        dtype: that is computed in.
        device: where.
        bits: of a weight: 8, or 0 for those of `dtype`.

    Raises:
        ConfigError: the model has no such blocks, or weights are not kept in so many bits.
        ModelError: it cannot be read.
    """
    if bits not in (0, 8):
        raise ConfigError(f"bits = {bits}: expected 8, or nothing for weights as they are")
    hollow = load_fused(folder, dtype=dtype, device=device, held=())
    empty = FrozenHost.of(hollow, first, last)
    buffer, layers = Buffer(), list[Block]()
    for number in range(first, last):  # so that no more than one block is there before rounding
        one = load_fused(folder, dtype=dtype, device=device, held=(f"layer.{number}",))
        block = one.layers[number]
        layers.append(rounded(block, buffer) if bits else block)
    span = replace(empty.backbone, layers=tuple(layers))
    return Hosted(
        FrozenHost(span, empty.ends),
        hollow.digest,
        first,
        last,
        hollow.shape.depth,
        bits or 8 * dtype.itemsize,
        sum(_nbytes(block) for block in layers),
        hollow.shape.max_positions,
    )


def _nbytes(block: Block) -> int:
    kept = [product.weight.nbytes for product in block.products]
    others = [product.bias for product in block.products]
    others += [t for norm in (block.norm1, block.norm2) for t in (norm.weight, norm.bias)]
    return sum(kept) + sum(tensor.nbytes for tensor in others if tensor is not None)


def blocks_per_second(
    found: Hosted, *, clock: Callable[[], float] = time.perf_counter, seconds: float = 1.0
) -> float:
    """How many blocks a call takes here in a second, for `TOKENS` tokens.

    A call is half of a step: the mean of one forward and one backward pass; the quickest of a few.

    Args:
        found: what is hosted.
        clock: seconds.
        seconds: after which no further pass is begun.
    """
    longest = min(_LONGEST, found.longest)
    packing = packing_of(Lengths(((longest,) * (TOKENS // longest),), None))
    backbone = found.host.backbone
    hidden = torch.zeros(1, packing.length, backbone.shape.width)
    best, until, passes = float("inf"), clock() + seconds, 0
    while passes < 2 or (passes < 5 and clock() < until):
        began = clock()
        grad: Tensor = found.host.forward("", 0, hidden, packing, train=True)
        found.host.backward("", 0, grad)
        best, passes = min(best, clock() - began), passes + 1
    return (found.last - found.first) / (best / 2)
