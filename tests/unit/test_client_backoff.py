import random

import pytest

from fedloom.client.backoff import Backoff


class Highest(random.Random):
    """Always the upper limit."""

    def uniform(self, a: float, b: float) -> float:
        return b


def test_the_limit_doubles_up_to_the_most() -> None:
    backoff = Backoff(first=1.0, most=300.0, source=Highest())
    # 1, 2, 4, ..., 256, then 300 for ever
    assert [backoff.next() for _ in range(11)] == [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]
    assert backoff.failures == 11


def test_the_thousandth_failure_waits_no_longer() -> None:
    backoff = Backoff(source=Highest())
    assert [backoff.next() for _ in range(2000)][-1] == 300.0


def test_a_success_begins_anew() -> None:
    backoff = Backoff(source=Highest())
    backoff.next()
    backoff.next()
    backoff.reset()
    assert (backoff.failures, backoff.next()) == (0, 1.0)


@pytest.mark.parametrize(("asked", "waited"), [(10.0, 11.0), (0.0, 1.0), (None, 1.0), (-5.0, 1.0)])
def test_what_the_server_asks_for_is_waited_in_full(asked: float | None, waited: float) -> None:
    assert Backoff(source=Highest()).next(asked) == waited


def test_waits_are_spread_over_the_whole_interval() -> None:
    draws = [Backoff(first=8.0, source=random.Random(seed)).next() for seed in range(400)]
    assert min(draws) < 0.8
    assert max(draws) > 7.2
