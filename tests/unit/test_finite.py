import pytest
import torch

from fedloom.tuning.finite import is_finite

TYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


@pytest.mark.parametrize("dtype", TYPES)
def test_one_bad_number_is_found(dtype: torch.dtype) -> None:
    values = torch.linspace(-1, 1, 1000, dtype=dtype)
    assert is_finite(values)
    for bad in (torch.nan, torch.inf, -torch.inf):
        values[500] = bad
        assert not is_finite(values)
    values[499], values[501] = torch.inf, -torch.inf  # whose sum is NaN
    assert not is_finite(values)


@pytest.mark.parametrize("dtype", TYPES)
def test_a_sum_that_overflows_is_no_bad_number(dtype: torch.dtype) -> None:
    assert is_finite(torch.full((4, 100), torch.finfo(dtype).max, dtype=dtype))


def test_any_shape() -> None:
    assert is_finite(torch.empty(0, 3))
    assert is_finite(torch.ones(4, 6, requires_grad=True)[:, ::2].T)
