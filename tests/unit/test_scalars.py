import numpy as np
import pytest

from fedloom.core.errors import ConfigError, UpdateRefusedError
from fedloom.core.scalars import LIMIT, dequantize, quantize, step_for


def test_the_nearest_step_and_of_two_the_even_one() -> None:
    # Steps of 1/4: 0.3 -> 1.2 -> 1; 0.375 -> 1.5 -> 2; 0.625 -> 2.5 -> 2; -0.125 -> -0.5 -> 0.
    sent = quantize([0.3, 0.375, 0.625, -0.125, -0.3], 0.25)
    assert sent.dtype == np.int16
    assert sent.tolist() == [1, 2, 2, 0, -1]
    assert dequantize(sent, 0.25).tolist() == [0.25, 0.5, 0.5, 0, -0.25]


def test_nothing_is_sent_of_nothing() -> None:
    assert quantize([], 1).tolist() == []


def test_the_largest_scalars_fit() -> None:
    # 32767.49 rounds to 32767, the last that fits.
    assert quantize([LIMIT, -LIMIT, 32767.49], 1).tolist() == [32767, -32767, 32767]


@pytest.mark.parametrize("value", [32767.5, -32768.0, 1e300])
def test_what_exceeds_the_range_is_refused(value: float) -> None:
    with pytest.raises(UpdateRefusedError, match=r"exceeds 32767 steps of 0.5 = 16383.5") as info:
        quantize([0.0, value / 2], 0.5)
    assert info.value.code == "saturated"


def test_an_overflow_is_refused_without_a_warning() -> None:
    with pytest.raises(UpdateRefusedError, match=r"1e\+308 exceeds"):
        quantize([1e308], 2.0**-20)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_finite_is_refused(value: float) -> None:
    with pytest.raises(UpdateRefusedError, match="scalars: NaN or infinite") as info:
        quantize([0.0, value], 1)
    assert info.value.code == "not-finite"


@pytest.mark.parametrize("step", [0.0, -1.0, 0.3, 3.0, float("nan"), float("inf")])
def test_a_step_is_a_power_of_two(step: float) -> None:
    with pytest.raises(ConfigError, match=r"step = \S+: a power of two"):
        quantize([0.0], step)
    with pytest.raises(ConfigError, match=r"step = \S+: a power of two"):
        dequantize(np.zeros(1, dtype=np.int16), step)


@pytest.mark.parametrize(
    ("largest", "step"), [(LIMIT, 1.0), (LIMIT + 1, 2.0), (LIMIT / 2, 0.5), (3.0, 2.0**-13)]
)
def test_the_smallest_step_that_fits(largest: float, step: float) -> None:
    # 3 / 2^-13 = 24576 fits; 3 / 2^-14 = 49152 does not.
    assert step_for(largest) == step
    assert abs(int(quantize([largest], step)[0])) <= LIMIT


@pytest.mark.parametrize("largest", [0.0, -1.0, float("nan"), float("inf")])
def test_a_largest_scalar_is_positive(largest: float) -> None:
    with pytest.raises(ConfigError, match=r"largest = \S+: positive and finite"):
        step_for(largest)
