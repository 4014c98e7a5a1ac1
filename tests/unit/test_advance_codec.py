import struct
from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from step_runs import BODY, HEAD, LAYOUT, SEED, advance, start

from fedloom.core.advance import Advance, Contribution, Move
from fedloom.core.advance_codec import decode_advance, encode_advance
from fedloom.core.errors import CodecError
from fedloom.core.layout import Layout, TensorSpec
from fedloom.core.steps import Directions
from fedloom.core.types import Delta

NOTHING = Delta(Layout(()), np.zeros(0, dtype=np.float32))


def same(a: Advance, b: Advance) -> bool:
    """Whether two advances say the same, their arrays too."""
    if len(a.moves) != len(b.moves) or dict(a.notes) != dict(b.notes):
        return False
    for x, y in zip(a.moves, b.moves, strict=True):
        named = x.layout.names == y.layout.names and x.worth == y.worth
        agreed = x.directions == y.directions and x.round == y.round
        parts = len(x.contributions) == len(y.contributions) and all(
            (p.owner, p.weight) == (q.owner, q.weight) and np.array_equal(p.scalars, q.scalars)
            for p, q in zip(x.contributions, y.contributions, strict=True)
        )
        if not (named and agreed and parts):
            return False
    rest = a.rest.vector.tobytes() == b.rest.vector.tobytes()
    return rest and a.rest.layout.names == b.rest.layout.names


@pytest.mark.parametrize("scheme", ["distinct", "shared", "pool", "candidates"])
def test_an_advance_comes_back_and_does_the_same(scheme: str) -> None:
    told = replace(advance(3, scheme), notes={"lr": 0.5, "kept": 3.0})
    found = decode_advance(encode_advance(told, LAYOUT), LAYOUT)
    assert same(told, found)
    before = start()
    after = [a.apply(before, SEED).vector.tobytes() for a in (told, found)]
    assert after[0] == after[1]


def test_sizes_are_as_small_as_said() -> None:
    # 4 digest, 1 + 1 tensors of the rest, 120 numbers of it, 1 moves, 1 + 1 tensors that move,
    # 2 scheme and family, 1 pool, 1 round, 1 + 8 worth, 1 form, 1 owners,
    # 8 x (8 owner + 1 weight), 1 scalars each, 1 + 8 x 8 x 2 scalars, 1 notes
    assert len(encode_advance(advance(1), LAYOUT)) == 6 + 120 + 1 + 2 + 4 + 9 + 2 + 72 + 1 + 129 + 1
    # 4096 directions, of which some 1320 are used: their numbers, and the sums in 32 bits.
    used = np.count_nonzero(advance(1, "pool").moves[0].contributions[0].scalars)
    frame = encode_advance(advance(1, "pool", head=False), LAYOUT)
    assert 6 * used < len(frame) < 6 * used + 40
    assert encode_advance(Advance((), NOTHING), LAYOUT)[4:] == bytes([0, 0, 0, 0])


def test_no_bytes_change_nothing() -> None:
    found = decode_advance(b"", LAYOUT)
    assert same(found, Advance((), NOTHING))
    before = start()
    assert found.apply(before, SEED).vector.tobytes() == before.vector.tobytes()


def test_tensors_in_another_order_keep_it() -> None:
    backwards = Layout((BODY[2], BODY[0]))
    part = Contribution(5, 2, np.array([3, -4], dtype=np.int64))
    told = Advance((Move(backwards, (1.0, 0.5), Directions(), 2, (part,)),), NOTHING)
    assert same(told, decode_advance(encode_advance(told, LAYOUT), LAYOUT))


CONTRIBUTIONS = st.dictionaries(
    st.integers(0, 2**64 - 1),
    st.tuples(
        st.integers(0, 1000),
        st.lists(st.integers(-(2**31), 2**31), min_size=1, max_size=30),
    ),
    max_size=6,
)


@given(
    parts=CONTRIBUTIONS,
    scheme=st.sampled_from(["distinct", "candidates"]),
    worth=st.lists(st.floats(-1e30, 1e30), min_size=2, max_size=2),
    round=st.integers(0, 2**62),
    notes=st.dictionaries(st.text(max_size=10), st.floats(-10, 10), max_size=3),
)
def test_any_advance_comes_back(
    parts: dict[int, tuple[int, list[int]]],
    scheme: str,
    worth: list[float],
    round: int,
    notes: dict[str, float],
) -> None:
    made = tuple(
        Contribution(owner, weight, np.array(scalars, dtype=np.int64))
        for owner, (weight, scalars) in parts.items()
    )
    two = Layout(BODY[1:3])
    told = Advance((Move(two, tuple(worth), Directions(scheme), round, made),), NOTHING, notes)
    assert same(told, decode_advance(encode_advance(told, LAYOUT), LAYOUT))


FRAMES = [encode_advance(advance(2, s), LAYOUT) for s in ("distinct", "shared", "pool")]


@given(st.sampled_from(FRAMES), st.data())
@settings(max_examples=200)
def test_what_is_cut_or_changed_is_refused_or_read(frame: bytes, data: st.DataObject) -> None:
    """Never anything but an advance or `CodecError`, whatever the bytes."""
    if data.draw(st.booleans()):
        frame = frame[: data.draw(st.integers(1, len(frame) - 1))]
        with pytest.raises(CodecError):
            decode_advance(frame, LAYOUT)
        return
    changed = bytearray(frame)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, min(200, len(frame) - 1)))
        changed[at] = data.draw(st.integers(0, 255))
    with suppress(CodecError):
        decode_advance(bytes(changed), LAYOUT)


@given(st.binary(max_size=300))
def test_any_bytes_are_refused_or_read(data: bytes) -> None:
    with suppress(CodecError):
        decode_advance(bytes.fromhex(LAYOUT.digest[:8]) + data, LAYOUT)


def test_another_model_is_refused() -> None:
    other = Layout((*BODY, TensorSpec("head", (30,))))
    with pytest.raises(CodecError, match="of another layout") as refused:
        decode_advance(FRAMES[0], other)
    assert refused.value.code == "layout"
    with pytest.raises(CodecError, match="no tensor 'head'"):
        encode_advance(advance(1), other)
    with pytest.raises(CodecError, match=r"no tensor 'layer\.0'"):
        encode_advance(advance(1), Layout((HEAD,)))


def numbers_of(values: list[float]) -> Advance:
    return Advance((), Delta(Layout(BODY[:1]), np.array(values * 1200, dtype=np.float32)))


def test_what_is_not_finite_is_refused() -> None:
    frame = encode_advance(numbers_of([np.nan]), LAYOUT)
    with pytest.raises(CodecError, match="not finite") as refused:
        decode_advance(frame, LAYOUT)
    assert refused.value.code == "not-finite"
    move = replace(advance(1).moves[0], worth=(1e39,) * 4)
    with pytest.raises(CodecError, match="more than a float32") as refused:
        decode_advance(encode_advance(Advance((move,), NOTHING), LAYOUT), LAYOUT)
    assert refused.value.code == "not-finite"


def test_more_than_memory_is_refused_before_it_is_taken() -> None:
    head = bytes.fromhex(LAYOUT.digest[:8]) + bytes([0, 0, 1, 0, 1, 2, 0]) + b"\xff\xff\x03\x00"
    worth = b"\x01" + struct.pack("<d", 1.0)
    # 200 contributions of 65,536 scalars each, none of them other than zero
    many = bytes([3]) + b"\xc8\x01" + bytes(1600) + bytes([1]) * 200 + b"\x80\x80\x04" + bytes(400)
    with pytest.raises(CodecError, match=r"directions|scalars"):
        decode_advance(head + worth + many, LAYOUT)
    part = Contribution(5, 2**62, np.array([2], dtype=np.int64))
    far = Advance((Move(Layout(BODY[:1]), (1.0,), Directions(), 1, (part,)),), NOTHING)
    with pytest.raises(CodecError, match="beyond 64 bits"):
        decode_advance(encode_advance(far, LAYOUT), LAYOUT)
    big = Contribution(5, 1, np.zeros(2**22 + 1, dtype=np.int64))
    with pytest.raises(CodecError, match="4194305 scalars"):
        encode_advance(replace(far, moves=(replace(far.moves[0], contributions=(big,)),)), LAYOUT)


def test_an_owner_stands_once() -> None:
    part = Contribution(5, 1, np.array([2], dtype=np.int64))
    twice = Advance((Move(Layout(BODY[:1]), (1.0,), Directions(), 1, (part, part)),), NOTHING)
    with pytest.raises(CodecError, match="an owner twice"):
        decode_advance(encode_advance(twice, LAYOUT), LAYOUT)
