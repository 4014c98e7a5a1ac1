import numpy as np
import pytest

from fedloom.codecs.base import Codec
from fedloom.codecs.dense import BFloat16, Float16, Float32
from fedloom.codecs.frame import OVERHEAD, write_frame
from fedloom.core.errors import CodecError
from fedloom.core.layout import Layout, TensorSpec
from fedloom.core.types import Delta

LAYOUT = Layout((TensorSpec("a", (1,)), TensorSpec("b", (2,))))


def delta(*values: float) -> Delta:
    return Delta(LAYOUT, np.array(values, dtype=np.float32))


def round_trip(codec: Codec, given: Delta) -> list[float]:
    decoded: list[float] = codec.decode(codec.encode(given), LAYOUT).vector.tolist()
    return decoded


def test_float32_is_exact_and_costs_four_bytes() -> None:
    given = delta(1e-45, -3.4e38, 0.1)
    assert round_trip(Float32(), given) == given.vector.tolist()
    assert Float32().encode(given).nbytes == OVERHEAD + 12


def test_bfloat16_rounds_to_nearest_ties_to_even() -> None:
    # Steps are 2^-7 in [1, 2): 1 + 2^-8 lies halfway and goes to the even 1;
    # 1 + 3 * 2^-8 lies halfway between 1 + 2^-7 (odd) and 1 + 2^-6 (even).
    given = delta(1 + 2**-8, -(1 + 3 * 2**-8), 1 + 2**-8 + 2**-20)
    assert round_trip(BFloat16(), given) == [1.0, -(1 + 2**-6), 1 + 2**-7]
    assert BFloat16().encode(given).nbytes == OVERHEAD + 6


def test_float16_rounds_to_nearest_ties_to_even() -> None:
    # Steps are 2^-10 in [1, 2), and 2^-24 at the bottom.
    given = delta(1 + 2**-11, -(1 + 3 * 2**-11), 2**-24)
    assert round_trip(Float16(), given) == [1.0, -(1 + 2**-9), 2**-24]
    assert Float16().encode(given).nbytes == OVERHEAD + 6


def test_float16_names_the_tensor_that_overflows() -> None:
    assert round_trip(Float16(), delta(65519.0, 0, 0)) == [65504.0, 0, 0]
    with pytest.raises(CodecError, match="fp16: tensor 'b': a value is too large for float16"):
        Float16().encode(delta(0, 0, 65520.0))


def test_bfloat16_names_the_tensor_that_overflows() -> None:
    largest = float(np.finfo(np.float32).max)
    with pytest.raises(CodecError, match="bf16: tensor 'a': a value is too large for bfloat16"):
        BFloat16().encode(delta(-largest, 0, 0))


@pytest.mark.parametrize("codec", [Float32(), BFloat16(), Float16()], ids=lambda c: c.name)
def test_what_is_not_finite_is_refused_on_both_sides(codec: Codec) -> None:
    with pytest.raises(CodecError, match="tensor 'b': a value is not finite"):
        codec.encode(delta(0, np.nan, 0))
    nan = np.full(3, np.nan, dtype=np.float32)
    body = {"float32": nan.tobytes(), "fp16": nan.astype("<f2").tobytes(), "bf16": b"\xff" * 6}
    with pytest.raises(CodecError, match="tensor 'a': a value is not finite"):
        codec.decode(write_frame(codec.name, LAYOUT, body[codec.name]), LAYOUT)


def test_a_body_of_another_length_is_refused() -> None:
    with pytest.raises(CodecError, match="float32: a body of 8 bytes; expected 12"):
        Float32().decode(write_frame("float32", LAYOUT, bytes(8)), LAYOUT)
