from collections.abc import Callable
from ctypes import CDLL
from typing import cast

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedloom.core import fixed_point
from fedloom.core.compiled import compiled
from fedloom.core.errors import UpdateRefusedError
from fedloom.core.layout import Layout, TensorSpec
from fedloom.core.types import ClientUpdate, Delta, Params
from fedloom.strategies.aggregate import FixedPointSum, WeightedMean

WHOLE = Layout((TensorSpec("a", (2,)), TensorSpec("b", (3,)), TensorSpec("c", ())))
ONES = np.ones(WHOLE.size, dtype=np.float32)
PARAMS = Params(WHOLE, np.zeros(WHOLE.size, dtype=np.float32))


@st.composite
def updates(draw: st.DrawFn) -> ClientUpdate:
    names = draw(st.sets(st.sampled_from(WHOLE.names), min_size=1))
    layout = Layout(tuple(spec for spec in WHOLE if spec.name in names))
    floats = st.floats(-1000, 1000, width=32)
    values = draw(st.lists(floats, min_size=layout.size, max_size=layout.size))
    weight = draw(st.integers(0, 1000))
    return ClientUpdate("x", 1, weight, delta=Delta(layout, np.array(values, dtype=np.float32)))


MEANS = st.sampled_from([WeightedMean("skip"), WeightedMean("unchanged")])


def fold(mean: WeightedMean, cohort: list[ClientUpdate]) -> FixedPointSum:
    total: FixedPointSum | None = None
    for update in cohort:
        total = mean.add(total, update)
    return cast(FixedPointSum, total)


def bits(mean: WeightedMean, total: FixedPointSum) -> bytes:
    return mean.mean(PARAMS, total).vector.tobytes()


@given(mean=MEANS, data=st.data(), cohort=st.lists(updates(), min_size=1, max_size=8))
def test_no_order_changes_a_bit(
    mean: WeightedMean, data: st.DataObject, cohort: list[ClientUpdate]
) -> None:
    shuffled = data.draw(st.permutations(cohort))
    assert bits(mean, fold(mean, cohort)) == bits(mean, fold(mean, shuffled))


@given(mean=MEANS, data=st.data(), cohort=st.lists(updates(), min_size=2, max_size=8))
def test_no_split_changes_a_bit(
    mean: WeightedMean, data: st.DataObject, cohort: list[ClientUpdate]
) -> None:
    cut = data.draw(st.integers(1, len(cohort) - 1))
    merged = mean.merge(fold(mean, cohort[cut:]), fold(mean, cohort[:cut]))
    assert bits(mean, merged) == bits(mean, fold(mean, cohort))


@given(mean=MEANS, update=updates(), times=st.integers(1, 5))
def test_n_examples_weigh_as_n_clients_of_one(
    mean: WeightedMean, update: ClientUpdate, times: int
) -> None:
    one = ClientUpdate("x", 1, 1, delta=update.delta)
    many = ClientUpdate("x", 1, times, delta=update.delta)
    assert fold(mean, [many]).sums.tobytes() == fold(mean, [one] * times).sums.tobytes()


@given(cohort=st.lists(updates(), min_size=1, max_size=8))
def test_the_mean_is_the_real_mean_within_the_rounding(cohort: list[ClientUpdate]) -> None:
    weights = np.zeros(WHOLE.size)
    sums = np.zeros(WHOLE.size)
    for update in cohort:
        assert update.delta is not None
        for here, there in WHOLE.spans(update.delta.layout):
            sums[here] += update.num_examples * update.delta.vector[there].astype(np.float64)
            weights[here] += update.num_examples
    expected = np.divide(sums, weights, out=np.zeros(WHOLE.size), where=weights > 0)
    got = WeightedMean().mean(PARAMS, fold(WeightedMean(), cohort)).vector
    # Half of 2^-34 from the fixed point, half of float32's last place (values up to 1000: 2^-15).
    assert np.abs(got - expected).max() <= 2**-35 + 2**-15


def none(module: str, declare: Callable[[CDLL], None]) -> None:
    """In place of `compiled`: as where nothing was compiled."""


@pytest.mark.parametrize("way", [compiled, none])
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    cohort=st.lists(updates(), min_size=1, max_size=3),
    refused=updates(),
    values=st.lists(st.sampled_from([2.0**28, -(2.0**29), np.inf, np.nan]), min_size=1),
)
def test_a_refusal_leaves_every_bit_as_it_was(
    monkeypatch: pytest.MonkeyPatch,
    way: Callable[[str, Callable[[CDLL], None]], CDLL | None],
    cohort: list[ClientUpdate],
    refused: ClientUpdate,
    values: list[float],
) -> None:
    monkeypatch.setattr(fixed_point, "compiled", way)
    total = fold(WeightedMean(), [ClientUpdate("x", 1, 1, delta=Delta(WHOLE, ONES)), *cohort])
    before = total.sums.tobytes(), total.weights.tobytes(), total.weight, total.bound
    assert refused.delta is not None
    vector = refused.delta.vector.copy()
    vector[: len(values)] = values[: len(vector)]
    bad = ClientUpdate("x", 1, 2 + refused.num_examples, delta=Delta(refused.delta.layout, vector))
    with pytest.raises(UpdateRefusedError, match=r"not finite|could overflow"):
        WeightedMean().add(total, bad)
    assert before == (total.sums.tobytes(), total.weights.tobytes(), total.weight, total.bound)
