"""The rounds of a run as what they did to the model: all that a client needs to follow.

The ledger is kept in the state's slots, so that a checkpoint has it. It is a chain of versions,
each made from the one before by a frame (`core.advance_codec`); the oldest frames are dropped where
all together are larger than the model, which is then what is sent.

The rounds of a **pool** are one frame (FedKSeed: Qin et al., ICML 2024, equation 5): the model is
always an anchor plus the sum over all rounds of integers times the pool's directions. The anchor
and the integers, as many as the pool has directions, make any version since. For that, what a round
adds along a direction is rounded to a grid, 2^-8 of what a step of the clients is worth: in N
rounds, a direction's sum is off by at most N / 2 of its grid (sqrt(N / 12), as a deviation).

What a round adds number by number, such as to the head, is not written down: whoever lacks such a
round is sent those tensors as they are now.
"""

import hashlib
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from fedloom.core.advance import Advance, Move
from fedloom.core.advance_codec import decode_advance, encode_advance
from fedloom.core.layout import Layout, Vector
from fedloom.core.pool_sums import rounds_of_pool
from fedloom.core.types import Delta, Params, State

__all__ = ["DIGEST", "StepLedger", "advanced", "digest_of", "unmoved"]

DIGEST = 16
"""Bytes of a model's digest."""
_FRAMES, _SIZES, _VERSIONS = "ledger/frames", "ledger/sizes", "ledger/versions"
_DIGESTS, _TOUCHED, _ANCHOR = "ledger/digests", "ledger/touched", "ledger/anchor"
_NEEDED = (_FRAMES, _SIZES, _VERSIONS, _DIGESTS, _TOUCHED)
_NOTHING = Delta(Layout(()), np.zeros(0, dtype=np.float32))


def digest_of(vector: Vector) -> bytes:
    """BLAKE2b-128 of a model's numbers (float32, little-endian)."""
    raw = np.ascontiguousarray(vector, dtype="<f4")
    return hashlib.blake2b(raw.data, digest_size=DIGEST, person=b"fedloom/model/1").digest()


@dataclass(frozen=True)
class StepLedger:
    """A chain of versions, and how each is made of the one before.

    Attributes:
        versions: ascending; the last is the state's own.
        digests: of the model at each of them.
        frames: the moves that lead from each to the next: one fewer.
        touched: ``[frames, tensors]``: what changed number by number besides.
        anchor: the model at the last version but one, where the last frame is that of a pool: it
            is replaced by a longer one every round. None otherwise.
    """

    versions: tuple[int, ...]
    digests: tuple[bytes, ...]
    frames: tuple[bytes, ...]
    touched: NDArray[np.bool_]
    anchor: Vector | None = None

    @staticmethod
    def of(state: State) -> "StepLedger | None":
        """The ledger in a state; None where there is none, or not of this version."""
        slots = state.slots
        if any(name not in slots for name in _NEEDED):
            return None
        versions = tuple(int(version) for version in slots[_VERSIONS])
        if versions[-1] != state.version:
            return None
        frames, ends = slots[_FRAMES].tobytes(), np.cumsum(slots[_SIZES]).tolist()
        cut = tuple(frames[a:b] for a, b in zip([0, *ends], ends, strict=False))
        digests = tuple(row.tobytes() for row in slots[_DIGESTS])
        anchor = None if _ANCHOR not in slots else slots[_ANCHOR].astype(np.float32, copy=False)
        return StepLedger(versions, digests, cut, slots[_TOUCHED].astype(np.bool_), anchor)

    @staticmethod
    def begun(state: State) -> "StepLedger":
        """One that begins with a state's model."""
        none = np.zeros((0, len(state.params.layout.specs)), dtype=np.bool_)
        return StepLedger((state.version,), (digest_of(state.params.vector),), (), none)

    def place(self, version: int) -> int | None:
        """Where a version is in the chain; None where the chain lacks it."""
        return self.versions.index(version) if version in self.versions else None

    @property
    def kept(self) -> int:
        """Where in the chain the version is that a client is to keep, to follow from there."""
        return len(self.versions) - (1 if self.anchor is None else 2)

    def touched_in(self, span: slice, layout: Layout) -> Layout:
        """Tensors of a model that were changed number by number in a part of the chain."""
        return _some(layout, np.asarray(self.touched[span].any(axis=0)))

    def slots(self, state: State) -> dict[str, NDArray[np.generic]]:
        """A state's slots with this ledger among them."""
        ours = (*_NEEDED, _ANCHOR)
        others = {name: array for name, array in state.slots.items() if name not in ours}
        found: dict[str, NDArray[np.generic]] = {
            _FRAMES: np.frombuffer(b"".join(self.frames), np.uint8),
            _SIZES: np.array([len(frame) for frame in self.frames], dtype=np.int64),
            _VERSIONS: np.array(self.versions, dtype=np.int64),
            _DIGESTS: np.frombuffer(b"".join(self.digests), np.uint8).reshape(-1, DIGEST),
            _TOUCHED: self.touched.astype(np.uint8),
        }
        return others | found | ({} if self.anchor is None else {_ANCHOR: self.anchor})

    def longer(
        self, frame: bytes, version: int, digest: bytes, touched: NDArray[np.bool_] | None = None
    ) -> "StepLedger":
        """With one more version, made by `frame` of the last and by changing `touched` tensors."""
        row = np.zeros(self.touched.shape[1], dtype=np.bool_) if touched is None else touched
        chain = (*self.versions, version), (*self.digests, digest), (*self.frames, frame)
        return StepLedger(*chain, np.vstack((self.touched, row)))

    def shorter(self) -> "StepLedger":
        """Without the last version and what makes it."""
        chain = self.versions[:-1], self.digests[:-1], self.frames[:-1]
        return StepLedger(*chain, self.touched[:-1])

    def bounded(self, size: int) -> "StepLedger":
        """Without the oldest frames, as far as all together have more than `size` bytes."""
        over, first = sum(map(len, self.frames)) - size, 0
        while over > 0:
            over, first = over - len(self.frames[first]), first + 1
        chain = self.versions[first:], self.digests[first:], self.frames[first:]
        anchor = self.anchor if first < len(self.frames) else None
        return StepLedger(*chain, self.touched[first:], anchor)


def advanced(
    state: State, advance: Advance, seed: int, *, step: float = 0.0, anchor_every: int = 0
) -> State:
    """The state after an advance, which its ledger has.

    Args:
        state: the state before the round.
        advance: what the round did.
        seed: the run's.
        step: what one step of the clients is worth, for the grid of a pool.
        anchor_every: rounds after which a pool begins again from the model that is reached then
            (0: where its sums would leave 32 bits). Who holds an earlier anchor is sent the sums
            of each, as long as all of them are smaller than the model.

    Raises:
        LayoutError, ConfigError: the advance does not fit the model.
    """
    ledger = StepLedger.of(state) or StepLedger.begun(state)
    layout, base, anchor = state.params.layout, ledger, None
    touched = np.array([spec.name in advance.rest.layout.names for spec in layout], dtype=np.bool_)
    found = rounds_of_pool(_open(ledger, state, anchor_every), advance, step)
    if found is None:
        moves, params = advance.moves, advance.apply(state.params, seed)
    else:
        start, moves = state.params, (found[0],)
        if found[1] and ledger.anchor is not None:
            start, base = Params(layout, ledger.anchor), ledger.shorter()
            touched |= ledger.touched[-1]
        params, anchor = Advance(moves, _NOTHING).apply(start, seed), start.vector
        params = _with_touched(params, touched, state, (advance, seed))
    frame = encode_advance(Advance(moves, _NOTHING, advance.notes), layout)
    longer = base.longer(frame, state.version + 1, digest_of(params.vector), touched)
    longer = replace(longer, anchor=anchor).bounded(4 * layout.size)
    return State(params, state.version + 1, longer.slots(state), state.notes)


def unmoved(state: State) -> State:
    """The state after a round in which nothing came: the next version is the same model."""
    ledger = StepLedger.of(state) or StepLedger.begun(state)
    version = state.version + 1
    if ledger.anchor is None:
        longer = ledger.longer(b"", version, ledger.digests[-1])
    else:
        longer = replace(ledger, versions=(*ledger.versions[:-1], version))
    return State(state.params, version, longer.slots(state), state.notes)


def _open(ledger: StepLedger, state: State, anchor_every: int) -> Move | None:
    """The rounds of the pool that goes on; None where there is none, or it begins again."""
    if ledger.anchor is None:
        return None
    if anchor_every and ledger.versions[-1] - ledger.versions[-2] >= anchor_every:
        return None
    return decode_advance(ledger.frames[-1], state.params.layout).moves[0]


def _with_touched(
    params: Params, touched: NDArray[np.bool_], state: State, round: tuple[Advance, int]
) -> Params:
    """`params` with the touched tensors as the round alone makes them of the state's."""
    advance, seed = round
    layout = params.layout
    part = _some(layout, touched)
    moved = {name for move in advance.moves for name in move.layout.names}
    if moved.isdisjoint(part.names):
        advance = replace(advance, moves=())  # they need no directions
    after = advance.apply(state.params, seed)
    return params.having(after.only(part))


def _some(layout: Layout, chosen: NDArray[np.bool_]) -> Layout:
    return Layout(tuple(spec for spec, mine in zip(layout, chosen, strict=True) if mine))
