"""Who is asked in a round."""

import math
from collections.abc import Sequence

from fedloom.core.seeds import stream
from fedloom.core.types import Client

__all__ = ["choose", "count"]


def choose(
    there: Sequence[Client], size: int, *, seed: int, number: int, attempt: int = 1
) -> tuple[Client, ...]:
    """The cohort of a round, uniformly from the clients that are there.

    Where all of a population are there, the choice is the one that a simulation of it makes.

    Args:
        there: clients, in the order of their names.
        size: how many; all where fewer are there.
        seed: the run's.
        number: of the round, from 1.
        attempt: from 1; a round that is begun again asks others.
    """
    purpose = "cohort" if attempt == 1 else f"cohort again {attempt}"
    chosen = stream(seed, purpose, round=number).choose(len(there), min(size, len(there)))
    return tuple(there[int(index)] for index in chosen)


def count(share: float, size: int) -> int:
    """``ceil(share * size)``, at least 1; a share such as 1.3 is taken as written in decimal."""
    return max(1, math.ceil(round(share * size, 9)))
