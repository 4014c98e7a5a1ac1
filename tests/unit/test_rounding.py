import numpy as np

from fedloom.codecs.rounding import rounded


def test_to_the_nearest_ties_to_even_and_never_above_the_most() -> None:
    values = np.array([0.5, 1.5, -2.4, 3.7, -9.0], dtype=np.float32)
    found = rounded(values, 3, stochastic=False, seed=0, owner="test")
    assert found.tolist() == [0, 2, -2, 3, -3]


def test_at_random_it_is_the_whole_number_below_or_above() -> None:
    values = np.full(4000, -0.75, dtype=np.float32)
    found = rounded(values, 1, stochastic=True, seed=1, owner="test")
    assert set(found.tolist()) == {-1, 0}
    # A draw has standard deviation sqrt(.75 * .25) = .433, the mean of 4000 .0068.
    assert abs(found.mean() + 0.75) < 4 * 0.0068
