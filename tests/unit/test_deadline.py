import numpy as np
import pytest

from fedloom.server.deadline import Deadline

TERMS = Deadline(asked=10, goal=8, minimum=5, patience=60.0, longest=3600.0)


def test_the_goal_ends_a_round_when_its_last_update_came() -> None:
    arrivals = [9.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]
    assert TERMS.ends(arrivals) == 9.0
    assert TERMS.ends([*arrivals, 50.0]) == 9.0  # the ninth came after the end


def test_everybody_asked_is_enough() -> None:
    assert Deadline(asked=3, goal=8, minimum=2, patience=60.0, longest=99.0).ends([1, 2, 7]) == 7.0


@pytest.mark.parametrize("arrivals", [[], [1.0], [1.0, 2.0, 3.0, 4.0]])
def test_below_the_minimum_only_the_longest_time_counts(arrivals: list[float]) -> None:
    assert TERMS.ends(arrivals) == 3600.0


def test_equal_arrivals_leave_patience_alone() -> None:
    # MAD 0: the median says 10; the patience 10 + 60 * 5/10 missing = 40.
    assert TERMS.ends([10.0] * 5) == 40.0


def test_patience_shrinks_with_those_who_are_missing() -> None:
    # 7 of 10 came: 10 + 60 * 3/10 = 28.
    assert TERMS.ends([10.0] * 7) == pytest.approx(28.0)


def test_a_wide_spread_waits_longer_than_patience() -> None:
    # Median 300; distances 200, 100, 0, 100, 200: MAD 100; 300 + 4 * 100 = 700 > 500 + 30.
    assert TERMS.ends([100.0, 200.0, 300.0, 400.0, 500.0]) == 700.0


def test_one_late_update_does_not_move_the_median() -> None:
    # Median 12, MAD 1: 16; but never before the last arrival and its patience, 100 + 30.
    assert TERMS.ends([11.0, 12.0, 12.0, 13.0, 100.0]) == 130.0


def test_nothing_waits_longer_than_the_longest() -> None:
    short = Deadline(asked=10, goal=8, minimum=5, patience=60.0, longest=120.0)
    assert short.ends([100.0, 101.0, 102.0, 103.0, 104.0]) == 120.0
    assert short.ends([130.0] * 8) == 120.0


def test_it_is_over_at_the_age_at_which_it_ends() -> None:
    rng = np.random.default_rng(5)
    for count in range(11):
        for terms in (TERMS, Deadline(asked=10, goal=8, minimum=5, patience=0.0, longest=40.0)):
            arrivals = rng.exponential(50.0, size=count).tolist()
            ends = terms.ends(arrivals)
            latest = max(arrivals, default=0.0)
            ages = (ends, np.nextafter(ends, 0.0), ends + 1.0, latest, ends / 2)
            for age in map(float, ages):
                assert terms.is_over(age, arrivals) == (age >= ends), (count, age, ends)


def test_the_order_of_arrivals_does_not_matter() -> None:
    rng = np.random.default_rng(3)
    arrivals = rng.exponential(50.0, size=6)
    ends = {TERMS.ends(rng.permutation(arrivals).tolist()) for _ in range(10)}
    assert len(ends) == 1


def test_a_minimum_of_nothing_still_needs_one_update() -> None:
    terms = Deadline(asked=4, goal=4, minimum=0, patience=8.0, longest=99.0)
    assert terms.ends([]) == 99.0
    assert terms.ends([1.0]) == 7.0  # 1 + 8 * 3/4


def test_where_not_all_have_a_task_less_is_waited_for() -> None:
    # 4 of 10: ceil(8 * 4 / 10) = 4 end it, ceil(5 * 4 / 10) = 2 are enough.
    found = TERMS.among(4)
    assert (found.asked, found.goal, found.minimum) == (4, 4, 2)
    assert TERMS.among(10) is TERMS
    assert TERMS.among(0).minimum == 0
