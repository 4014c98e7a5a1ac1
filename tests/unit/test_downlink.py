import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ledger_digest import chain_digest
from replay_digest import used_features
from step_runs import LAYOUT, SEED, STEP, advance, start

from fedloom.codecs.dense import BFloat16, Float32
from fedloom.codecs.downlink import Arrived, Downlink, Form, follow, follows
from fedloom.codecs.exchange import client_update, sent_down
from fedloom.codecs.quantized import Int8
from fedloom.codecs.scalars import Scalars
from fedloom.core.errors import CodecError
from fedloom.core.layout import Layout
from fedloom.core.step_ledger import advanced
from fedloom.core.steps import Directions, Steps
from fedloom.core.types import ClientTask, Cost, Params, Payload, State

GOLDEN = "9ea7a739e93825da7b5f96ddbbe97bae33b38bbe385ee8b03e69c603e5c74ffc"


def played(rounds: int, scheme: str = "distinct", state: State | None = None) -> State:
    state = state or State(start())
    for number in range(state.version + 1, state.version + rounds + 1):
        state = advanced(state, advance(number, scheme), SEED, step=STEP)
    return state


def down(state: State, number: int | None = None, **options: object) -> Downlink:
    at = state.version if number is None else number
    return Downlink(state, Float32(), LAYOUT, number=at, **options)  # type: ignore[arg-type]


def arrived(form: Form, base: Params | None) -> Arrived:
    return follow(start(), Float32(), form.payload, LAYOUT, base=base, seed=SEED)


def test_the_smallest_form_is_sent() -> None:
    early, late = played(3), played(40)
    dense = sent_down(late.params, Float32(), LAYOUT, version=40).nbytes
    assert down(late).form(None).payload.nbytes == dense
    steps = down(late).form(39)
    assert (steps.base, steps.keeps) == (39, 40)
    # 4 magic, 1 flags, 1 + 1 tensors and 120 of their numbers, 1 how many, 2 its length, the frame
    # (of 347 bytes with the head's numbers), 4 checksum
    assert steps.payload.nbytes == 4 + 1 + 2 + 120 + 1 + 2 + (347 - 120) + 4
    assert arrived(steps, played(39).params).params.vector.tobytes() == late.params.vector.tobytes()
    assert down(early).form(0).base == 0
    assert down(played(100)).form(0).base is None  # too long ago: the model is smaller
    assert down(late).form(41).base is None  # of another run


def test_who_holds_it_already_is_sent_next_to_nothing() -> None:
    state = played(2)
    assert down(state).form(2).payload.nbytes == 12
    assert down(State(start()), following=True).form(0).payload.nbytes == 12
    assert down(State(start())).form(0).base is None  # a job whose clients do not follow


def test_a_pools_sums_are_from_the_anchor() -> None:
    state = played(20, "pool")
    form = down(state).form(0)
    assert (form.base, form.keeps) == (0, 0)
    assert form.payload.nbytes < 4 * 4096 + 200
    found = arrived(form, start())
    assert found.params.vector.tobytes() == state.params.vector.tobytes()
    assert found.kept.vector.tobytes() == start().vector.tobytes()
    late = down(state).form(None)
    assert (late.base, late.keeps) == (None, 0)
    new = arrived(late, None)
    assert new.params.vector.tobytes() == state.params.vector.tobytes()
    assert new.kept.vector.tobytes() == start().vector.tobytes()


def test_with_fedkseeds_numbers_a_round_is_below_18_kib() -> None:
    """4096 directions, 200 local steps of one each: 16 KiB down, 800 bytes up, and headers."""
    state = State(start())
    for number in range(1, 31):
        told = advance(number, "pool", clients=10, head=False)
        state = advanced(state, told, SEED, step=STEP)
    form = down(state).form(0)
    moved = LAYOUT.select(("layer.*",))
    agreed = Directions("pool", 4096)
    scalars = np.zeros(4096, dtype=np.int32)
    scalars[np.arange(200) * 20] = 32767
    sent = client_update(
        ClientTask("c0", 31, 30, seed=SEED),
        Layout(()),
        np.zeros(0, dtype=np.float32),
        Scalars(exact=(), scheme="pool"),
        num_examples=200,
        metrics={},
        cost=Cost(),
        model=LAYOUT,
        steps=Steps(moved, scalars, STEP, agreed),
    )
    assert sent.payload is not None
    assert form.payload.nbytes + sent.payload.nbytes <= 18 * 1024
    assert form.payload.nbytes > 16 * 1024  # the sums do fill 32 bits each
    found = arrived(form, start())
    assert found.params.vector.tobytes() == state.params.vector.tobytes()


def test_versions_are_numbered_through_the_run() -> None:
    state = played(4)  # of a second stage, that began after ten rounds
    model = down(state, 14)
    assert [model.form(held).base for held in (0, 9, 10, 13)] == [None, None, 10, 13]
    assert model.digest_of(14) == model.digest
    assert model.digest_of(9) == b""
    assert model.form(10).keeps == 14


def test_a_model_that_is_rounded_is_sent_whole() -> None:
    for codec in (BFloat16(), Int8()):
        model = Downlink(played(3), codec, LAYOUT, number=3, following=True)
        assert model.ledger is None
        assert model.form(2).base is None
        assert model.form(2).payload == sent_down(played(3).params, codec, LAYOUT, version=3)
        assert not follows(Scalars(), codec)
    assert follows(Scalars(), Float32())
    assert not follows(Float32(), Float32())


def test_what_is_sent_beside_it_comes_with_every_form() -> None:
    beside = {"chances": np.arange(5, dtype=np.float32)}
    state = played(3, "pool")
    for held, base in ((0, start()), (None, None)):
        form = down(state, briefing=beside).form(held)
        found = arrived(form, base)
        assert found.briefing["chances"].tolist() == [0, 1, 2, 3, 4]
        assert found.params.vector.tobytes() == state.params.vector.tobytes()


def test_a_frame_that_does_not_hold_is_refused() -> None:
    form = down(played(2)).form(0)
    frame = form.payload.frame
    with pytest.raises(CodecError, match="does not hold"):
        arrived(form, None)
    for bad in (frame[:-1], frame[:8], frame[:9] + b"?" + frame[10:], frame + b"x"):
        with pytest.raises(CodecError, match=r"checksum|no whole frame"):
            arrived(replace(form, payload=Payload("float32", bad)), start())


@given(st.binary(max_size=60))
def test_any_bytes_are_refused_or_read(data: bytes) -> None:
    with pytest.raises(CodecError):
        arrived(Form(Payload("float32", b"FLA1" + data), 0, 0), start())


@pytest.mark.parametrize("scheme", ["distinct", "pool"])
def test_a_late_joiner_follows_from_a_snapshot(scheme: str) -> None:
    state = played(5, scheme)
    form = down(state).form(None)
    mine = arrived(form, None).kept
    state = played(3, scheme, state)
    again = down(state).form(form.keeps)
    assert again.base == form.keeps
    assert arrived(again, mine).params.vector.tobytes() == state.params.vector.tobytes()


def test_the_chain_is_golden() -> None:
    assert chain_digest() == GOLDEN


def test_the_golden_bits_need_no_simd() -> None:
    variables = os.environ | {
        "NPY_DISABLE_CPU_FEATURES": " ".join(used_features()),
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    path = Path(__file__).with_name("ledger_digest.py")
    done = subprocess.run(
        [sys.executable, str(path)], env=variables, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == [GOLDEN, "0"]
