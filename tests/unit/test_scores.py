import numpy as np
import pytest

from fedloom.tuning.scores import batches_of, macro_f1


def test_macro_f1_counts_the_classes_that_occur() -> None:
    # Class 0: 1 hit of 2 and 1; class 2: 1 hit of 1 and 2. Class 1 occurs nowhere.
    assert macro_f1(np.array([0, 0, 2]), np.array([0, 2, 2])) == pytest.approx(2 / 3)
    assert macro_f1(np.array([1, 1]), np.array([0, 0])) == 0
    assert macro_f1(np.array([1, 1]), np.array([1, 1])) == 1
    assert macro_f1(np.array([], dtype=np.int64), np.array([], dtype=np.int64)) == 0


def test_batches_hold_so_many_tokens_and_never_nothing() -> None:
    lengths = np.array([9, 1, 2, 3])
    found = batches_of(np.array([1, 2, 3, 0]), lengths, 4)
    assert [b.tolist() for b in found] == [[1, 2], [3], [0]]
