"""The rounds of a pool of directions as one: the sum of what each adds along every direction."""

import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from fedloom.core.advance import Advance, Contribution, Move
from fedloom.core.steps import POOL

__all__ = ["rounds_of_pool"]

_FINE, _COARSE = 8, 4
"""Binary digits by which the grid is finer than a step, when a pool begins and at least."""
_MOST = 2**31 - 1


def rounds_of_pool(before: Move | None, advance: Advance, step: float) -> tuple[Move, bool] | None:
    """A round along a pool's directions, with the rounds before it where they can be added.

    Args:
        before: the rounds before, as this gave them; None for none.
        advance: the round.
        step: what one step of the clients is worth.

    Returns:
        The rounds as one move, and whether those before are in it; None where it is no round
        along a pool's directions alone, each step worth the same in all tensors.
    """
    round = _pool_move(advance)
    if round is None or not 0 < abs(step) < math.inf:
        return None
    if before is not None and _alike(before, round) and _fits(before.worth[0], step):
        sums = before.contributions[0].scalars + _rounded(round, before.worth[0])
        if np.abs(sums).max(initial=0) <= _MOST:
            return _moved(round, before.worth[0], sums), True
    grid = math.ldexp(abs(step), -_FINE)
    sums = _rounded(round, grid)
    if np.abs(sums).max(initial=0) > _MOST:
        return None
    return _moved(round, grid, sums), False


def _pool_move(advance: Advance) -> Move | None:
    if len(advance.moves) != 1:
        return None
    (move,) = advance.moves
    alone = len(move.contributions) == 1 and len(set(move.worth)) == 1
    return move if alone and move.directions.scheme == "pool" else None


def _alike(a: Move, b: Move) -> bool:
    same = a.layout.digest == b.layout.digest and a.directions == b.directions
    return same and len(a.contributions[0].scalars) == len(b.contributions[0].scalars)


def _fits(grid: float, step: float) -> bool:
    return 0 < grid <= math.ldexp(abs(step), -_COARSE)


def _rounded(move: Move, grid: float) -> NDArray[np.int64]:
    """What a round adds along each direction, as multiples of the grid, to the nearest."""
    part = move.contributions[0]
    steps = part.scalars.astype(np.float64) * (part.weight * move.worth[0] / grid)
    return np.rint(np.clip(steps, -(2.0**62), 2.0**62)).astype(np.int64)


def _moved(move: Move, grid: float, sums: NDArray[np.int64]) -> Move:
    worth = (grid,) * len(move.worth)
    return replace(move, worth=worth, round=0, contributions=(Contribution(POOL, 1, sums),))
