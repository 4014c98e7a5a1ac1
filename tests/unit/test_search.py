"""What learners along directions have in common: what scalars stand for, and what is refused."""

import numpy as np
import pytest

from fedloom.core.component import Component
from fedloom.core.errors import ConfigError
from fedloom.core.registry import create
from fedloom.tuning.learners.finite_difference import FiniteDifference
from fedloom.tuning.learners.forward_gradient import ForwardGradient


@pytest.mark.parametrize(("bits", "worth"), [(16, 2.0**-8), (8, 1.0), (1, 64.0)])
def test_what_a_scalar_is_worth(bits: int, worth: float) -> None:
    # 64 / 32767 is above 2^-9, and 64 / 127 above 1/2; a sign stands for the whole.
    search = FiniteDifference(bits=bits).search
    assert search.worth == worth
    slopes = np.array([0.5 * worth, -1.2 * worth, 3.6 * worth])
    assert search.quantized(slopes).tolist() == ([1, -1, 1] if bits == 1 else [0, -1, 4])


def test_numbers_that_are_none_move_nothing() -> None:
    assert FiniteDifference().search.quantized(np.array([np.nan])).tolist() == [0]
    far = FiniteDifference().search.quantized(np.array([np.inf, -1e300]))
    assert far.tolist() == [2**40, -(2**40)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"directions": 0}, "directions = 0: 1 to 65536"),
        ({"difference": "both"}, "difference = 'both'"),
        ({"h": -1.0}, "h = -1.0"),
        ({"bits": 4}, "bits = 4: 1, 8 or 16"),
        ({"largest": 0.0}, "largest = 0.0"),
        ({"scheme": "mine"}, "scheme = 'mine'"),
        ({"send": "seeds"}, "send = 'seeds': scalars or tensors"),
        ({"guided": True, "bits": 1}, "guided = True: only with 8 or 16 bits"),
        ({"guided": True, "scheme": "pool"}, "guided = True: only with"),
    ],
)
def test_options_out_of_range(options: dict[str, bool | int | float | str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        create("learners", Component("finite-difference", options))


def test_a_guide_goes_with_tensors_whatever_the_scheme() -> None:
    assert FiniteDifference(guided=True, scheme="pool", send="tensors").search.guided


def test_rows_at_once() -> None:
    assert FiniteDifference(300).copies == 2
    made = create("learners", Component("forward-gradient", {"directions": 2}))
    assert isinstance(made, ForwardGradient)
    assert made.copies == 2
