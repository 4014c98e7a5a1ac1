from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from step_runs import STEP, advance

from fedloom.core.advance import Move
from fedloom.core.pool_sums import rounds_of_pool


def total(move: Move) -> NDArray[np.float64]:
    """What a move adds along each direction."""
    (part,) = move.contributions
    return part.scalars.astype(np.float64) * (part.weight * move.worth[0])


def test_a_round_is_rounded_to_the_grid() -> None:
    told = advance(1, "pool")
    found = rounds_of_pool(None, told, STEP)
    assert found is not None
    summed, again = found
    assert not again
    grid = STEP * 2.0**-8
    assert summed.worth == (grid,) * 4
    assert np.abs(total(summed) - total(told.moves[0])).max() <= grid / 2


def test_rounds_add_up_exactly() -> None:
    known: Move | None = None
    off = np.zeros(4096, dtype=np.int64)
    for number in range(1, 31):
        told = advance(number, "pool")
        alone = rounds_of_pool(None, told, STEP)
        both = rounds_of_pool(known, told, STEP)
        assert alone is not None
        assert both is not None
        assert both[1] == (known is not None)
        known, one = both[0], alone[0].contributions[0].scalars
        off = off + one
        assert np.array_equal(known.contributions[0].scalars, off)


@pytest.mark.parametrize("scheme", ["distinct", "shared", "candidates"])
def test_other_directions_are_not_summed(scheme: str) -> None:
    assert rounds_of_pool(None, advance(1, scheme), STEP) is None


def test_nor_are_rounds_that_are_worth_more_in_some_tensors() -> None:
    told = advance(1, "pool")
    uneven = replace(told.moves[0], worth=(1.0, 1.0, 1.0, 2.0))
    assert rounds_of_pool(None, replace(told, moves=(uneven,)), STEP) is None
    assert rounds_of_pool(None, told, 0.0) is None


def test_smaller_steps_go_on_while_the_grid_is_fine_enough() -> None:
    found = rounds_of_pool(None, advance(1, "pool"), STEP)
    assert found is not None
    for step, goes_on in ((STEP / 16, True), (STEP / 17, False)):
        both = rounds_of_pool(found[0], advance(2, "pool"), step)
        assert both is not None
        assert both[1] == goes_on


def test_sums_beyond_32_bits_begin_again() -> None:
    found = rounds_of_pool(None, advance(1, "pool"), STEP)
    assert found is not None
    full = replace(found[0].contributions[0], scalars=np.full(4096, 2**31 - 1, dtype=np.int64))
    before = replace(found[0], contributions=(full,))
    both = rounds_of_pool(before, advance(2, "pool"), STEP)
    assert both is not None
    assert not both[1]
    assert rounds_of_pool(None, advance(2, "pool"), 1e-30) is None  # not even one round
