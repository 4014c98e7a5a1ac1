"""Ways of running a batch: facts in, choice out."""

from itertools import pairwise

import pytest

from fedloom.tuning.ways import Way, best, least, said, smaller

# A batch of 8 examples of 64 tokens; 10 bytes a token kept by six blocks, of which recomputing
# keeps one, and 100 of what does not depend on the batch.
TABLE = [
    Way(examples, -(-8 // examples), recompute, 64 * examples, 100 + 64 * examples * per_token)
    for examples in (1, 2, 4, 8)
    for recompute, per_token in ((False, 10), (True, 4))
]


@pytest.mark.parametrize(
    ("room", "examples", "recompute"),
    [
        (10**9, 8, False),  # everything fits
        (100 + 64 * 8 * 10, 8, False),  # to the byte
        (100 + 64 * 8 * 10 - 1, 4, False),  # two parts cost less time than blocks run again
        (100 + 64 * 4 * 10 - 1, 2, False),
        (100 + 64 * 2 * 10 - 1, 1, False),
        (100 + 64 * 1 * 10 - 1, 2, True),  # a part of two takes 612
        (100 + 64 * 1 * 4, 1, True),
    ],
)
def test_the_quickest_that_fits(room: int, examples: int, recompute: bool) -> None:
    found = best(TABLE, room)
    assert found is not None
    assert (found.examples, found.recompute) == (examples, recompute)


def test_blocks_run_again_where_parts_would_be_tiny() -> None:
    """Parts of 4 tokens take 1 + 40/4 = 11 a token; the whole of 32 run again (1 + 40/32) 1.5."""
    tiny = [Way(1, 8, False, 4, 50), Way(8, 1, True, 32, 50), Way(8, 1, False, 32, 99)]
    assert best(tiny, 60) == tiny[1]


def test_nothing_fits() -> None:
    smallest = least(TABLE)
    assert (smallest.examples, smallest.recompute) == (1, True)
    assert best(TABLE, smallest.bytes - 1) is None


def test_what_comes_after_a_failure_takes_clearly_less() -> None:
    way: Way | None = best(TABLE, 10**9)
    taken = []
    while way is not None:
        taken.append(way.bytes)
        way = smaller(TABLE, way)
    assert taken[-1] == least(TABLE).bytes
    assert all(after <= before * 3 // 4 for before, after in pairwise(taken[:-1]))
    assert taken == sorted(taken, reverse=True)
    assert smaller(TABLE, least(TABLE)) is None


def test_in_words() -> None:
    assert said(TABLE[-2]) == "whole batches"
    assert said(TABLE[-1]) == "whole batches, blocks run again on the way back"
    assert said(TABLE[0]) == "batches in 8 parts of 1 example at most"
    assert said(TABLE[2]) == "batches in 4 parts of 2 examples at most"
