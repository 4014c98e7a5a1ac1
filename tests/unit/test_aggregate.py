import tracemalloc

import numpy as np
import pytest

from fedloom.core.errors import ConfigError, LayoutError, UpdateRefusedError
from fedloom.core.layout import Layout, TensorSpec
from fedloom.core.types import ClientUpdate, Delta, Params
from fedloom.strategies.aggregate import FixedPointSum, WeightedMean

A, B = TensorSpec("a", (2,)), TensorSpec("b", (1,))
WHOLE = Layout((A, B))
PARAMS = Params(WHOLE, np.zeros(3, dtype=np.float32))


def update(num_examples: int, *values: float, layout: Layout = WHOLE) -> ClientUpdate:
    delta = Delta(layout, np.array(values, dtype=np.float32))
    return ClientUpdate("x", 1, num_examples, delta=delta)


def total_of(mean: WeightedMean, *updates: ClientUpdate) -> FixedPointSum:
    total: FixedPointSum | None = None
    for each in updates:
        total = mean.add(total, each)
    assert total is not None
    return total


def mean_of(mean: WeightedMean, *updates: ClientUpdate) -> list[float]:
    values: list[float] = mean.mean(PARAMS, total_of(mean, *updates)).vector.tolist()
    return values


def test_clients_weigh_by_their_examples() -> None:
    # (1 * [1, 0, -4] + 3 * [2, 0.5, 0]) / 4
    got = mean_of(WeightedMean(), update(1, 1, 0, -4), update(3, 2, 0.5, 0))
    assert got == [1.75, 0.375, -1.0]


def test_a_skipped_tensor_has_its_own_weights() -> None:
    # a: (1 * [1, 2] + 3 * [5, 6]) / 4; b: 8 / 1, as only the first update has it.
    part = update(3, 5, 6, layout=Layout((A,)))
    assert mean_of(WeightedMean("skip"), update(1, 1, 2, 8), part) == [4.0, 5.0, 8.0]


def test_an_unchanged_tensor_counts_as_zero() -> None:
    # b: (1 * 8 + 3 * 0) / 4
    part = update(3, 5, 6, layout=Layout((A,)))
    assert mean_of(WeightedMean("unchanged"), update(1, 1, 2, 8), part) == [4.0, 5.0, 2.0]


def test_the_total_grows_when_a_tensor_comes_late() -> None:
    late = update(1, 1, 2, 8)
    early = update(3, 6, layout=Layout((B,)))
    # b: (3 * 6 + 1 * 8) / 4
    assert mean_of(WeightedMean(), early, late) == [1.0, 2.0, 6.5]


def test_a_tensor_that_nobody_sends_stays() -> None:
    assert mean_of(WeightedMean(), update(2, 6, layout=Layout((B,)))) == [0.0, 0.0, 6.0]


def test_rounding_is_to_multiples_of_two_to_the_minus_34() -> None:
    # 2^-35 lies halfway and goes to the even 0; 3 * 2^-35 lies halfway and goes to 2 * 2^-34.
    got = mean_of(WeightedMean(), update(1, 2**-35, 3 * 2**-35, 2**-34))
    assert got == [0.0, 2**-33, 2**-34]


def test_no_examples_no_influence() -> None:
    assert mean_of(WeightedMean(), update(0, 1, 1, 1), update(2, 3, 3, 3)) == [3.0, 3.0, 3.0]
    assert mean_of(WeightedMean(), update(0, 1, 1, 1)) == [0.0, 0.0, 0.0]


def test_merging_parts_equals_folding_the_whole() -> None:
    mean = WeightedMean()
    one, two, three = (
        update(1, 0.1, 0.2, 0.3),
        update(5, 1, 2, 3),
        update(2, 9, layout=Layout((B,))),
    )
    whole = total_of(mean, one, two, three)
    merged = mean.merge(total_of(mean, three), total_of(mean, one, two))
    assert merged.weight == whole.weight == 8
    assert mean.mean(PARAMS, merged).vector.tobytes() == mean.mean(PARAMS, whole).vector.tobytes()


def test_what_could_overflow_is_refused_and_the_total_is_as_it_was() -> None:
    mean = WeightedMean()
    total = total_of(mean, update(2**20, 500, 0, 0))  # 500 * 2^20 of the 2^29 = 512 * 2^20 allowed
    before = total.sums.copy()
    with pytest.raises(
        UpdateRefusedError, match=r"client 'x': the sum could overflow: .* 5.37e\+08"
    ):
        mean.add(total, update(2**20, 0, 0, -12))
    assert total.sums.tobytes() == before.tobytes()
    assert total.weight == 2**20
    assert mean.mean(PARAMS, mean.add(total, update(2**20, 0, 0, -11))).vector[2] == -5.5


def test_merging_refuses_what_could_overflow() -> None:
    mean = WeightedMean()
    half = update(2**20, 256, 0, 0)
    with pytest.raises(UpdateRefusedError, match="merge: the sum could overflow"):
        mean.merge(total_of(mean, half), total_of(mean, half))


@pytest.mark.parametrize("value", [1e30, -1e30])
def test_a_delta_beyond_the_range_is_refused_even_without_weight(value: float) -> None:
    with pytest.raises(UpdateRefusedError, match="could overflow"):
        WeightedMean().add(None, update(0, value, 0, 0))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_delta_that_is_not_finite_is_refused(value: float) -> None:
    with pytest.raises(UpdateRefusedError, match="client 'x': the delta is not finite"):
        WeightedMean().add(None, update(1, 0, value, 0))


def test_a_negative_weight_and_an_undecoded_update_are_refused() -> None:
    with pytest.raises(UpdateRefusedError, match="num_examples = -1; below 0"):
        WeightedMean().add(None, update(-1, 0, 0, 0))
    with pytest.raises(UpdateRefusedError, match="the update is not decoded"):
        WeightedMean().add(None, ClientUpdate("x", 1, 1))


def test_another_shape_of_a_tensor_is_a_layout_error() -> None:
    total = total_of(WeightedMean(), update(1, 0, 0, 0))
    wide = Layout((TensorSpec("b", (2,)),))
    with pytest.raises(LayoutError, match=r"tensor 'b': expected \(1,\), got \(2,\)"):
        WeightedMean().add(total, update(1, 0, 0, layout=wide))
    with pytest.raises(LayoutError, match="tensor 'b': expected no such tensor"):
        WeightedMean().mean(Params(Layout((A,)), np.zeros(2, dtype=np.float32)), total)


def test_absent_is_one_of_two_words() -> None:
    with pytest.raises(ConfigError, match="absent = 'zero': one of skip, unchanged"):
        WeightedMean("zero")


def test_long_deltas_are_folded_piece_by_piece() -> None:
    layout = Layout((TensorSpec("a", (100_003,)),))
    vector = np.arange(layout.size, dtype=np.float32) / np.float32(1024)
    long = ClientUpdate("x", 1, 3, delta=Delta(layout, vector))
    total = total_of(WeightedMean(), long)
    # Multiples of 2^-10 are multiples of 2^-34, so that nothing is rounded.
    assert total.sums.tolist() == [3 * i * 2**24 for i in range(layout.size)]


def test_memory_does_not_grow_with_the_cohort() -> None:
    layout = Layout((TensorSpec("a", (200_000,)),))
    each = ClientUpdate("x", 1, 2, delta=Delta(layout, np.ones(layout.size, dtype=np.float32)))
    total = total_of(WeightedMean(), each)
    tracemalloc.start()
    for _ in range(20):
        total = WeightedMean().add(total, each)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000  # the scratch of one piece; a copy of the total would be 1.6 MB
