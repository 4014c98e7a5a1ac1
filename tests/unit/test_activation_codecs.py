import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedloom.core.errors import CodecError, SplitError, UnknownNameError
from fedloom.core.seeds import stream
from fedloom.tuning.activation_codecs import ACTIVATION_CODECS, codec_named

NAMES = ("float64", "float32", "bf16", "int8")
floats = st.floats(-(2.0**100), 2.0**100, width=32)


def test_the_codecs_by_name() -> None:
    assert tuple(ACTIVATION_CODECS) == NAMES
    with pytest.raises(UnknownNameError, match=r"activation codec 'int4': known: .*'int8'"):
        codec_named("int4")


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=40, deadline=None)
@given(numbers=st.lists(floats, min_size=0, max_size=150), seed=st.integers(0, 9))
def test_no_element_is_off_by_more_than_is_stated(
    name: str, numbers: list[float], seed: int
) -> None:
    codec, values = codec_named(name), torch.tensor(numbers, dtype=torch.float32)
    body = codec.encode(values, stream(seed, "test"))
    assert len(body) == codec.nbytes(len(numbers))
    found = codec.decode(body, (len(numbers),))
    off = (found.double() - values.double()).abs()
    assert not len(numbers) or float(off.max()) <= codec.error_bound(values)
    assert bool((found[values == 0] == 0).all())


def test_sizes() -> None:
    # int8: 130 elements are three blocks of 64: 130 bytes and three scales of 4.
    assert [codec_named(name).nbytes(130) for name in NAMES] == [1040, 520, 260, 142]


def test_float64_becomes_float32_within_its_bound() -> None:
    codec, values = codec_named("float32"), torch.tensor([1 / 3, -2e10 / 7], dtype=torch.float64)
    found = codec.decode(codec.encode(values, stream(0, "test")), (2,)).double()
    assert 0 < float((found - values).abs().max()) <= codec.error_bound(values)
    assert codec.error_bound(values.float()) == 0


def test_int8_is_unbiased_and_repeats() -> None:
    # 0.3 of absmax 1: 38.1 steps, so that rounding goes to 38 in nine of ten and to 39 in one.
    codec, values = codec_named("int8"), torch.full((64_000,), 0.3)
    values[::64] = 1.0
    body = codec.encode(values, stream(1, "test"))
    assert body == codec.encode(values, stream(1, "test"))
    assert body != codec.encode(values, stream(2, "test"))
    mean = float(codec.decode(body, (64_000,))[values != 1].mean())
    # Standard deviation of the mean: 0.3 of a step / sqrt(63 000) = 1e-5.
    assert mean == pytest.approx(0.3, abs=5e-5)


@pytest.mark.parametrize("name", NAMES)
def test_what_cannot_be_packed_or_read(name: str) -> None:
    codec = codec_named(name)
    with pytest.raises(SplitError, match=f"{name}: a value is not finite") as caught:
        codec.encode(torch.tensor([1.0, torch.nan]), stream(0, "test"))
    assert caught.value.code == "not-finite"
    with pytest.raises(CodecError, match=rf"{name}: a body of 3 bytes; \[2, 5\] takes"):
        codec.decode(b"123", (2, 5))
    if name != "float64":
        with pytest.raises(SplitError, match="too large"):
            codec.encode(torch.tensor([1e300], dtype=torch.float64), stream(0, "test"))


def test_scales_and_steps_that_nobody_wrote() -> None:
    codec = codec_named("int8")
    for scale in (-1.0, np.nan, np.inf, 3e38):
        body = np.array([scale], "<f4").tobytes() + b"\1"
        with pytest.raises(CodecError, match="a scale is negative or not finite"):
            codec.decode(body, (1,))
    with pytest.raises(CodecError, match="a step of -128"):
        codec.decode(np.array([1.0], "<f4").tobytes() + b"\x80", (1,))
