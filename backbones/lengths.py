"""How long the examples of packed clients are: all that another machine needs of a packing."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from fedloom.backbones.base import Packing
from fedloom.backbones.packing import Read, pack

__all__ = ["Lengths", "as_one", "lengths_of", "packing_of"]


@dataclass(frozen=True)
class Lengths:
    """Tokens of each example of each client, and the token that the task reads.

    Attributes:
        tokens: for each client the tokens of each of its examples.
        read: ``first``, ``last``, or None where all are read.
    """

    tokens: tuple[tuple[int, ...], ...]
    read: Read

    @property
    def longest(self) -> int:
        """Tokens of the longest client: L of packed hidden states ``[k, L, d]``."""
        return max(sum(own) for own in self.tokens)

    @property
    def most(self) -> int:
        """Examples of the client that has most: b."""
        return max(len(own) for own in self.tokens)


def lengths_of(packing: Packing) -> Lengths:
    """The lengths that a packing was made of."""
    sizes = np.zeros(packing.clients * packing.examples, dtype=np.int64)
    for grid in packing.grids:
        rows, width = grid.rows.cpu().numpy(), grid.index.shape[1]
        sizes[rows] = width if grid.mask is None else grid.mask.sum(1).cpu().numpy()
    own = sizes.reshape(packing.clients, packing.examples)
    tokens = tuple(tuple(int(n) for n in row if n) for row in own)
    return Lengths(tokens, _read_of(packing, tokens))


def packing_of(lengths: Lengths) -> Packing:
    """Pack examples of these lengths, without their ids."""
    blank = [[np.zeros(n, dtype=np.int32) for n in own] for own in lengths.tokens]
    return replace(pack(blank, read=lengths.read), ids=None)


def as_one(packing: Packing) -> Packing:
    """The same tokens as those of one client: hidden states ``[1, k * L, d]``, without copying."""
    if packing.clients == 1:
        return packing
    return replace(
        packing,
        clients=1,
        length=packing.clients * packing.length,
        examples=packing.clients * packing.examples,
        ids=None if packing.ids is None else packing.ids.view(1, -1),
        positions=packing.positions.view(1, -1),
        read=None if packing.read is None else packing.read.view(1, -1),
    )


def _read_of(packing: Packing, tokens: Sequence[Sequence[int]]) -> Read:
    """Where a packing reads: where examples have one token, first and last are the same."""
    if packing.read is None:
        return None
    firsts = [
        client * packing.length + np.concatenate(([0], np.cumsum(own)[:-1]))
        for client, own in enumerate(tokens)
    ]
    read = packing.read.cpu()
    same = all(
        torch.equal(read[i, : len(own)], torch.from_numpy(own)) for i, own in enumerate(firsts)
    )
    return "first" if same else "last"
