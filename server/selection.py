"""Who is asked in a round."""

import math
from collections.abc import Sequence

from fedloom.core.seeds import stream
from fedloom.core.types import Client

__all__ = ["choose", "count", "placed"]


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


def placed(
    before: Sequence[Client], kept: Sequence[Client], chosen: Sequence[Client]
) -> tuple[Client, ...]:
    """The cohort of a round that is begun again: whose update came has the same place as before.

    A strategy may deal its tasks out by place, and what came answers the task that was given. Where
    there are too few others to stand before those, some of the earlier ones are asked once more.

    Args:
        before: the cohort so far.
        kept: those of it whose update came.
        chosen: who is asked now.
    """
    stay, fresh = {client.id for client in kept}, iter(chosen)
    others = stay.union(client.id for client in chosen)
    spare = (client for client in before if client.id not in others)
    last = max((place for place, client in enumerate(before) if client.id in stay), default=-1)
    found = list[Client]()
    for place, client in enumerate(before):
        one = client if client.id in stay else next(fresh, None)
        if one is None and place < last:
            one = next(spare)
        found += [one] if one is not None else []
    return (*found, *fresh)


def count(share: float, size: int) -> int:
    """``ceil(share * size)``, at least 1; a share such as 1.3 is taken as written in decimal."""
    return max(1, math.ceil(round(share * size, 9)))
