from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from step_runs import LAYOUT, SEED, STEP, advance, start

from fedloom.core.advance_codec import decode_advance
from fedloom.core.checkpoint import load_state, save_state
from fedloom.core.step_ledger import DIGEST, StepLedger, advanced, digest_of, unmoved
from fedloom.core.types import Params, State


def played(rounds: int, scheme: str, *, head: bool = True, **options: int) -> State:
    state = State(start())
    for number in range(1, rounds + 1):
        state = advanced(state, advance(number, scheme, head=head), SEED, step=STEP, **options)
    return state


def tensor(params: Params, name: str) -> NDArray[np.float32]:
    return params.vector[LAYOUT.span(name)]


def ledger_of(state: State) -> StepLedger:
    found = StepLedger.of(state)
    assert found is not None
    return found


@pytest.mark.parametrize("scheme", ["distinct", "shared", "candidates"])
def test_every_round_is_a_frame(scheme: str) -> None:
    state = played(4, scheme)
    ledger = ledger_of(state)
    assert (ledger.versions, ledger.anchor, ledger.kept) == ((0, 1, 2, 3, 4), None, 4)
    params = start()
    for number, (frame, digest) in enumerate(zip(ledger.frames, ledger.digests[1:], strict=True)):
        params = decode_advance(frame, LAYOUT).apply(params, SEED)
        moved = {s.name for s in LAYOUT} - {"head"}  # which is not written down, only that it did
        at = played(number + 1, scheme).params
        assert digest_of(at.vector) == digest
        assert all(np.array_equal(tensor(params, n), tensor(at, n)) for n in moved)
    assert ledger.touched_in(slice(2, 3), LAYOUT).names == ("head",)
    assert ledger.touched_in(slice(4, None), LAYOUT).names == ()
    assert [ledger.place(version) for version in (0, 4, 5)] == [0, 4, None]


def test_a_pools_rounds_are_one_frame_from_the_anchor() -> None:
    state = played(9, "pool", head=False)
    ledger = ledger_of(state)
    assert (ledger.versions, ledger.kept) == ((0, 9), 0)
    assert ledger.anchor is not None
    assert ledger.anchor.tobytes() == start().vector.tobytes()
    params = decode_advance(ledger.frames[0], LAYOUT).apply(start(), SEED)
    assert params.vector.tobytes() == state.params.vector.tobytes()
    # The rounding is below the grid: 2^-8 of a step, for each of 9 rounds and 4096 directions.
    exact = start()
    for number in range(1, 10):
        exact = advance(number, "pool", head=False).apply(exact, SEED)
    assert np.abs(exact.vector - params.vector).max() < 9 * STEP * 2.0**-8 * 64


def test_a_pool_begins_again_when_it_is_told_to() -> None:
    state = played(7, "pool", head=False, anchor_every=3)
    ledger = ledger_of(state)
    assert ledger.versions[-2:] == (6, 7)
    assert ledger.anchor is not None
    assert digest_of(ledger.anchor) == ledger.digests[-2]
    params = Params(LAYOUT, ledger.anchor)
    found = decode_advance(ledger.frames[-1], LAYOUT).apply(params, SEED)
    assert found.vector.tobytes() == state.params.vector.tobytes()


def test_a_head_beside_a_pool_is_as_its_rounds_alone_make_it() -> None:
    state, head = played(6, "pool"), start()
    for number in range(1, 7):
        head = advance(number, "pool").apply(head, SEED)
    assert np.array_equal(tensor(state.params, "head"), tensor(head, "head"))
    assert ledger_of(state).touched_in(slice(0, None), LAYOUT).names == ("head",)


def test_rounds_in_which_nothing_came_are_no_bytes() -> None:
    state = unmoved(unmoved(played(2, "shared")))
    ledger = ledger_of(state)
    assert (ledger.versions, ledger.frames[2:]) == ((0, 1, 2, 3, 4), (b"", b""))
    assert len(set(ledger.digests[2:])) == 1
    pool = ledger_of(unmoved(played(2, "pool")))
    assert (pool.versions, pool.kept) == ((0, 3), 0)
    assert ledger_of(unmoved(State(start()))).versions == (0, 1)


def test_it_is_never_larger_than_the_model() -> None:
    state = played(100, "distinct")  # 227 bytes a round, of a model of 19,320
    ledger = ledger_of(state)
    assert sum(map(len, ledger.frames)) <= 4 * LAYOUT.size
    assert ledger.versions == tuple(range(100 - len(ledger.frames), 101))
    assert len(ledger.frames) == 4 * LAYOUT.size // len(ledger.frames[0])
    tiny = ledger.bounded(0)
    assert (tiny.versions, tiny.frames, tiny.anchor) == ((100,), (), None)


def test_a_checkpoint_has_it(tmp_path: Path) -> None:
    for scheme in ("distinct", "pool"):
        state = played(3, scheme)
        save_state(tmp_path / "state", state, {})
        again, _ = load_state(tmp_path / "state", LAYOUT)
        one = advanced(again, advance(4, scheme), SEED, step=STEP)
        other = advanced(state, advance(4, scheme), SEED, step=STEP)
        assert {n: a.tobytes() for n, a in one.slots.items()} == {
            n: a.tobytes() for n, a in other.slots.items()
        }
    save_state(tmp_path / "state", unmoved(State(start())), {})
    assert ledger_of(load_state(tmp_path / "state", LAYOUT)[0]).frames == (b"",)


def test_one_that_another_strategy_passed_on_does_not_count() -> None:
    state = played(2, "distinct")
    moved = State(start(), state.version + 1, state.slots)
    assert StepLedger.of(moved) is None
    assert ledger_of(advanced(moved, advance(4), SEED)).versions == (3, 4)
    assert StepLedger.of(State(start())) is None


def test_other_slots_stay() -> None:
    state = State(start(), slots={"momentum": np.ones(3)})
    assert advanced(state, advance(1), SEED).slots["momentum"].tolist() == [1.0] * 3


def test_a_digest_tells_bits_apart() -> None:
    vector = np.zeros(2, dtype=np.float32)
    assert len(digest_of(vector)) == DIGEST
    assert digest_of(vector) != digest_of(-vector)
