import struct

import numpy as np
import pytest

from fedloom.codecs.frame import OVERHEAD, write_frame
from fedloom.codecs.quantized import Int8
from fedloom.core.errors import CodecError, ConfigError
from fedloom.core.layout import Layout, TensorSpec
from fedloom.core.types import Delta

LAYOUT = Layout((TensorSpec("a", (3,)), TensorSpec("b", (2,))))


def delta(*values: float) -> Delta:
    return Delta(LAYOUT, np.array(values, dtype=np.float32))


def test_each_block_has_its_own_scale() -> None:
    # Block one, |x| <= 127: scale 1, so 0.4 -> 0, 1.5 -> 2 (even), -127 exact.
    # Block two, |x| <= 254: scale 2, so 3 -> 1.5 steps -> 2 steps = 4.
    codec = Int8(block=3)
    payload = codec.encode(delta(0.4, 1.5, -127, 3, 254))
    assert codec.decode(payload, LAYOUT).vector.tolist() == [0, 2, -127, 4, 254]
    assert payload.nbytes == OVERHEAD + 4 + 2 * 4 + 5


def test_zeros_stay_exact_zeros() -> None:
    for stochastic in (False, True):
        codec = Int8(block=2, stochastic=stochastic)
        back = codec.decode(codec.encode(delta(0, 0, 0, 0.3, 0)), LAYOUT).vector
        assert back[[0, 1, 2, 4]].tolist() == [0, 0, 0, 0]


def test_the_frame_says_how_long_its_blocks_are() -> None:
    payload = Int8(block=2).encode(delta(1, 2, 3, 4, 5))
    assert np.array_equal(
        Int8(block=64).decode(payload, LAYOUT).vector, Int8(block=2).decode(payload, LAYOUT).vector
    )


def test_stochastic_rounding_repeats_and_is_unbiased() -> None:
    layout = Layout((TensorSpec("a", (4001,)),))
    vector = np.full(layout.size, 0.3, dtype=np.float32)
    vector[0] = 127.0  # scale 1: every other element is 0 or 1
    codec, given = Int8(block=5000, stochastic=True), Delta(layout, vector)
    assert codec.encode(given, seed=3) == codec.encode(given, seed=3)
    assert codec.encode(given, seed=3) != codec.encode(given, seed=4)
    back = codec.decode(codec.encode(given, seed=3), layout).vector[1:]
    # Ones among 4000 draws at 0.3: standard deviation sqrt(.3 * .7 / 4000) = 0.0072.
    assert back.mean() == pytest.approx(0.3, abs=4 * 0.0072)


def test_the_largest_floats_are_refused_where_the_scale_would_overflow() -> None:
    top = np.finfo(np.float32).max
    scale = np.float32(top / np.float32(127))
    with np.errstate(over="ignore"):
        overflows = bool(np.isinf(scale * np.float32(127)))
    assert overflows
    with pytest.raises(CodecError, match="int8: tensor 'b': a value is too large"):
        Int8(block=3).encode(delta(0, 0, 0, 0, float(top)))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "a body of 0 bytes; expected 4 or more"),
        (struct.pack("<I", 0) + bytes(9), "blocks of 0 elements; expected 1 to 1048576"),
        (struct.pack("<I", 2**31) + bytes(9), "blocks of 2147483648 elements"),
        (struct.pack("<I", 5) + bytes(10), "a body of 14 bytes; expected 13"),
        (struct.pack("<If", 5, -1) + bytes(5), "a scale is negative or not finite"),
        (struct.pack("<If", 5, np.nan) + bytes(5), "a scale is negative or not finite"),
        (struct.pack("<If", 5, 1) + b"\x80" + bytes(4), "a step of -128"),
        (struct.pack("<If", 5, 3.4e38) + b"\x7f" * 5, "tensor 'a': a value is not finite"),
    ],
)
def test_a_body_that_no_encoder_writes_is_refused(body: bytes, message: str) -> None:
    with pytest.raises(CodecError, match=message):
        Int8().decode(write_frame("int8", LAYOUT, body), LAYOUT)


def test_a_block_must_hold_something() -> None:
    with pytest.raises(ConfigError, match=r"block = 0: in \[1, 1048576\]"):
        Int8(block=0)
