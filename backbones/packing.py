"""Lay the examples of k clients end to end, and find them again for attention."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedloom.backbones.base import Grid, Packing
from fedloom.core.errors import DataError

__all__ = ["Read", "pack", "pack_images"]

Read: TypeAlias = Literal["first", "last"] | None
Ints: TypeAlias = NDArray[np.int64]


@dataclass(frozen=True)
class _Examples:
    """All examples of all clients in order.

    Attributes:
        sizes: tokens of each example, ``[E]``.
        starts: index of its first token among the ``k * L``, ``[E]``.
        rows: which of the ``k * b`` places it takes, ``[E]``.
        clients: k.
        length: L.
        most: b.
    """

    sizes: Ints
    starts: Ints
    rows: Ints
    clients: int
    length: int
    most: int


def pack(
    examples: Sequence[Sequence[NDArray[np.int32]]],
    *,
    read: Read | int,
    buckets: bool = True,
    multiple: int = 1,
) -> Packing:
    """Pack token arrays of k clients.

    Args:
        examples: for each client its examples, each int ``[tokens]``; clients may hold different
            numbers of examples of different lengths.
        read: the token of each example that the task reads: the first, the last, or the one of an
            id; None where it reads all.
        buckets: put examples whose lengths round up to the same power of two into one grid; off,
            there is one grid as long as the longest example.
        multiple: L and the lengths of grids are padded to multiples of this. Libraries keep code
            for every shape that they have multiplied, a quarter of a megabyte each: few shapes take
            less memory.

    Raises:
        DataError: there is no client, no example at all, or an example without tokens, or without
            exactly one of the id that it is read at.
    """
    placed = _place(examples, multiple)
    flat = np.concatenate([np.asarray(e, np.int64) for client in examples for e in client])
    within = _ranges(placed.sizes)
    where = np.repeat(placed.starts, placed.sizes) + within
    ids = np.zeros(placed.clients * placed.length, np.int64)
    positions = np.zeros_like(ids)
    ids[where], positions[where] = flat, within
    asked = _of_id(placed, flat, read) if isinstance(read, int) else read
    grids, back = _grids(placed, buckets, multiple)
    shape = (placed.clients, placed.length)
    return Packing(
        clients=placed.clients,
        length=placed.length,
        examples=placed.most,
        ids=torch.from_numpy(ids).view(shape),
        positions=torch.from_numpy(positions).view(shape),
        grids=grids,
        back=back,
        read=_read(placed, asked),
        regular=_regular(placed),
        useful=len(flat) / len(ids),
    )


def pack_images(clients: int, examples: int, tokens: int, *, read: Read = "first") -> Packing:
    """Pack `examples` images for each of `clients`, each of `tokens` tokens (patches and CLS)."""
    count = clients * examples
    placed = _Examples(
        sizes=np.full(count, tokens),
        starts=np.arange(count) * tokens,
        rows=np.arange(count),
        clients=clients,
        length=examples * tokens,
        most=examples,
    )
    grids, back = _grids(placed, buckets=False)
    positions = torch.arange(tokens).repeat(clients, examples)
    return Packing(
        clients=clients,
        length=placed.length,
        examples=examples,
        ids=None,
        positions=positions,
        grids=grids,
        back=back,
        read=_read(placed, read),
        regular=True,
        useful=1.0,
    )


def _place(examples: Sequence[Sequence[NDArray[np.int32]]], multiple: int) -> _Examples:
    counts = np.array([len(client) for client in examples], np.int64)
    sizes = np.array([len(example) for client in examples for example in client], np.int64)
    if not len(sizes) or sizes.min() == 0:
        what = "an example without tokens" if len(sizes) else f"{len(counts)} clients, no example"
        raise DataError(f"pack: {what}; every example needs at least one token")
    client = np.repeat(np.arange(len(counts)), counts)
    tokens = np.bincount(client, weights=sizes, minlength=len(counts)).astype(np.int64)
    length, most = -(-int(tokens.max()) // multiple) * multiple, int(counts.max())
    before = np.cumsum(sizes) - sizes
    client_before = np.cumsum(tokens) - tokens
    starts = before - client_before[client] + client * length
    rows = client * most + _ranges(counts)
    return _Examples(sizes, starts, rows, len(counts), length, most)


def _ranges(counts: Ints) -> Ints:
    """``0 .. counts[0]-1, 0 .. counts[1]-1, ...`` end to end."""
    before = np.cumsum(counts) - counts
    ranges: Ints = np.arange(counts.sum()) - np.repeat(before, counts)
    return ranges


def _regular(placed: _Examples) -> bool:
    full = len(placed.sizes) == placed.clients * placed.most
    filled = int(placed.sizes.sum()) == placed.clients * placed.length
    return full and filled and bool((placed.sizes == placed.sizes[0]).all())


def _grids(placed: _Examples, buckets: bool, multiple: int = 1) -> tuple[tuple[Grid, ...], Tensor]:
    sizes = placed.sizes
    bucket = np.ceil(np.log2(sizes)).astype(np.int64) if buckets else np.zeros_like(sizes)
    grids: list[Grid] = []
    back = np.full(placed.clients * placed.length, -1, np.int64)
    slots = 0
    for one in np.unique(bucket):
        chosen = np.flatnonzero(bucket == one)
        longest = -(-int(sizes[chosen].max()) // multiple) * multiple
        index = placed.starts[chosen, None] + np.arange(longest)
        mask = np.arange(longest) < sizes[chosen, None]
        back[index[mask]] = slots + np.flatnonzero(mask)
        # Padding points into its own example, so that a client that diverges spoils no other.
        index = np.where(mask, index, placed.starts[chosen, None])
        kept = None if mask.all() else torch.from_numpy(mask)
        grids.append(Grid(torch.from_numpy(index), kept, torch.from_numpy(placed.rows[chosen])))
        slots += index.size
    back[back < 0] = slots
    return tuple(grids), torch.from_numpy(back)


def _of_id(placed: _Examples, flat: Ints, token: int) -> Ints:
    """Where in each example the token is, ``[E]``."""
    found = np.flatnonzero(flat == token)
    owner = np.repeat(np.arange(len(placed.sizes)), placed.sizes)[found]
    if not np.array_equal(owner, np.arange(len(placed.sizes))):
        text = f"an example does not hold token {token} once, at which it is read"
        raise DataError(f"pack: {text}")
    places: Ints = found - (np.cumsum(placed.sizes) - placed.sizes)
    return places


def _read(placed: _Examples, read: Read | Ints) -> Tensor | None:
    if read is None:
        return None
    index = np.repeat(np.arange(placed.clients) * placed.length, placed.most)
    ends = {"first": np.zeros_like(placed.sizes), "last": placed.sizes - 1}
    within = ends[read] if isinstance(read, str) else read
    index[placed.rows] = placed.starts + within
    return torch.from_numpy(index).view(placed.clients, placed.most)
