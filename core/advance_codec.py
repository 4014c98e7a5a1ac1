"""An advance in bytes, so that whoever holds the version before it can make the one after it.

| bytes | what                                                                                 |
|-------|--------------------------------------------------------------------------------------|
| 4     | start of the digest of the model's layout                                            |
| ...   | which tensors the rest has, and its numbers (float32)                                |
| 1     | moves; each:                                                                         |
| ...   |   which tensors it moves                                                             |
| 3+    |   scheme, family, pool and round of its directions                                   |
| 1 + 8 |   whether one step is worth the same in all tensors; what it is worth (float64 each) |
| 1     |   form: 1 numbered scalars, those that are not zero; 2 owners have as many each      |
| ...   |   owners: how many, their numbers (8 bytes each, where each has directions of its    |
|       |   own), weights, how many scalars (each)                                             |
| ...   |   numbered: how many of each are not zero, their numbers (2 bytes each)              |
| 1+    |   the scalars of all owners, in 1, 8, 16, 32 or 64 bits                              |
| ...   | notes: how many; each: length of its name, its name, its number (float64)            |

`core.tensor_sets` says which tensors. Counts without a length are `varint`. No bytes at all are an
advance that changes nothing.
"""

import math
import struct
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fedloom.core.advance import Advance, Contribution, Move
from fedloom.core.errors import CodecError, FedloomError
from fedloom.core.layout import Layout
from fedloom.core.octets import Octets, integers, varint, varints
from fedloom.core.steps import FAMILIES, POOL, SHARED, Directions
from fedloom.core.tensor_sets import read_tensors, tensors
from fedloom.core.types import Delta

__all__ = ["decode_advance", "encode_advance"]

_SCHEMES = ("distinct", "shared", "pool", "candidates")
_OWNERS = {"shared": SHARED, "pool": POOL}
_NUMBERED, _ALIKE = 1, 2
_MOST = 1 << 22
"""Scalars of a move, those that are zero among them."""


def encode_advance(advance: Advance, layout: Layout) -> bytes:
    """The bytes of an advance of a model of this layout.

    Raises:
        CodecError: it moves what the model lacks, or is larger than is read again.
    """
    rest = advance.rest
    parts = [_digest(layout), tensors(rest.layout, layout), rest.vector.astype("<f4").tobytes()]
    parts += [bytes([len(advance.moves)]), *(_move(move, layout) for move in advance.moves)]
    parts.append(bytes([len(advance.notes)]))
    for name, number in sorted(advance.notes.items()):
        label = name.encode()
        parts += [bytes([len(label)]), label, struct.pack("<d", number)]
    return b"".join(parts)


def decode_advance(data: bytes | memoryview, layout: Layout) -> Advance:
    """The advance of a model of this layout that `encode_advance` wrote.

    Memory is taken for what has come, not for what is said to come.

    Raises:
        CodecError: it is cut, damaged, of another layout (``layout``), or moves by a number that is
            not finite (``not-finite``).
    """
    if not data:
        return Advance((), Delta(Layout(()), np.zeros(0, dtype=np.float32)))
    octets = Octets(data, "advance")
    if bytes(octets.take(4)) != _digest(layout):
        text = f"advance: of another layout than {layout.digest[:8]}, the model's"
        raise CodecError(text, code="layout")
    part = read_tensors(octets, layout)
    vector = octets.numbers("<f4", part.size).astype(np.float32, copy=False)
    if not np.isfinite(vector).all():
        raise CodecError("advance: a number is not finite", code="not-finite")
    moves = tuple(_read_move(octets, layout) for _ in range(octets.byte()))
    notes = {}
    for _ in range(octets.byte()):
        name = bytes(octets.take(octets.byte())).decode(errors="replace")
        (notes[name],) = octets.doubles(1)
    octets.end()
    return Advance(moves, Delta(part, vector), notes)


def _digest(layout: Layout) -> bytes:
    return bytes.fromhex(layout.digest[:8])


def _move(move: Move, layout: Layout) -> bytes:
    agreed, parts = move.directions, move.contributions
    families = tuple(FAMILIES)
    head = bytes([_SCHEMES.index(agreed.scheme), families.index(agreed.family)])
    alike = len(set(move.worth)) == 1
    worth = move.worth[:1] if alike else move.worth
    lengths = [len(part.scalars) for part in parts]
    if sum(lengths) > _MOST or any(not 0 <= part.weight < 2**63 for part in parts):
        raise CodecError(f"advance: {sum(lengths)} scalars, or a weight that is none")
    whole = _scalars([part.scalars for part in parts])
    numbered = _numbered([part.scalars for part in parts])
    same = len(set(lengths)) == 1
    form = _ALIKE if same else 0
    if numbered is not None and len(numbered) < len(whole):
        form, whole = form | _NUMBERED, numbered
    own = agreed.scheme not in _OWNERS
    return b"".join(
        (
            tensors(move.layout, layout),
            *(head, varint(agreed.pool), varint(move.round)),
            *(bytes([alike]), struct.pack(f"<{len(worth)}d", *worth)),
            *(bytes([form]), varint(len(parts))),
            b"".join(struct.pack("<Q", part.owner) for part in parts) if own else b"",
            *(varints(part.weight for part in parts), varints(lengths[:1] if same else lengths)),
            whole,
        )
    )


def _read_move(octets: Octets, layout: Layout) -> Move:
    moved = read_tensors(octets, layout)
    agreed, round = _read_directions(octets), octets.varint()
    worth = octets.doubles(1) * len(moved.specs) if octets.byte() else ()
    worth = worth or octets.doubles(len(moved.specs))
    if max(map(abs, worth), default=0.0) > float(np.finfo(np.float32).max):
        raise CodecError("advance: a step is worth more than a float32", code="not-finite")
    form, fixed = octets.byte(), agreed.scheme in _OWNERS
    count = octets.count(1 if fixed else 9)
    owners = octets.numbers("<u8", 0 if fixed else count).tolist()
    owners = [_OWNERS[agreed.scheme]] * count if fixed else owners
    weights = octets.varints(count)
    lengths = octets.varints(1) * count if form & _ALIKE else octets.varints(count)
    if sum(lengths) > _MOST or min(lengths, default=1) < 1 or len(set(owners)) < count:
        raise CodecError(f"advance: {sum(lengths)} scalars, none, or an owner twice")
    read = _read_numbered if form & _NUMBERED else _read_scalars
    scalars = read(octets, lengths)
    _check(agreed, weights, scalars)
    parts = map(Contribution, owners, weights, scalars)
    return Move(moved, worth, agreed, round, tuple(parts))


def _read_directions(octets: Octets) -> Directions:
    scheme, family, pool = octets.byte(), octets.byte(), octets.varint()
    try:
        return Directions(_SCHEMES[scheme], pool, tuple(FAMILIES)[family])
    except (IndexError, FedloomError) as error:
        raise CodecError(f"advance: directions that we do not know: {error}") from None


def _check(
    agreed: Directions, weights: Sequence[int], scalars: Sequence[NDArray[np.int64]]
) -> None:
    """Raise where the sum could leave 64 bits."""
    sums = (float(np.abs(part.astype(np.float64)).sum()) for part in scalars)
    bound = math.fsum(w * s for w, s in zip(weights, sums, strict=True))
    if bound * FAMILIES[agreed.family].peak >= 2.0**63:
        raise CodecError(f"advance: sum(weight * |scalar|) = {bound:g}: beyond 64 bits")


def _scalars(scalars: Sequence[NDArray[np.int64]]) -> bytes:
    return integers(_joined(scalars))


def _read_scalars(octets: Octets, lengths: Sequence[int]) -> list[NDArray[np.int64]]:
    return _cut(octets.integers(sum(lengths)), lengths)


def _numbered(scalars: Sequence[NDArray[np.int64]]) -> bytes | None:
    """Those that are not zero, with their numbers; None where a number has more than 16 bits."""
    used = [np.flatnonzero(part) for part in scalars]
    numbers = np.concatenate(used) if used else np.zeros(0, dtype=np.int64)
    if numbers.max(initial=0) > 65535:
        return None
    values = _joined([part[at] for part, at in zip(scalars, used, strict=True)])
    return varints(map(len, used)) + numbers.astype("<u2").tobytes() + integers(values)


def _read_numbered(octets: Octets, lengths: Sequence[int]) -> list[NDArray[np.int64]]:
    counts = octets.varints(len(lengths))
    numbers = _cut(octets.numbers("<u2", sum(counts)).astype(np.int64), counts)
    values = _cut(octets.integers(sum(counts)), counts)
    found = []
    for length, at, own in zip(lengths, numbers, values, strict=True):
        if (np.diff(at) <= 0).any() or at.max(initial=0) >= length:
            raise CodecError(f"advance: a direction twice, or beyond the {length} that are said")
        scalars = np.zeros(length, dtype=np.int64)
        scalars[at] = own
        found.append(scalars)
    return found


def _joined(parts: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    return np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)


def _cut(values: NDArray[np.int64], lengths: Sequence[int]) -> list[NDArray[np.int64]]:
    ends = np.cumsum(lengths, dtype=np.int64)[:-1]
    return np.split(values, ends) if lengths else []
