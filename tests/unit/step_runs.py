"""Rounds along known directions, made up: what a strategy would make of a cohort's scalars."""

import numpy as np
from numpy.typing import NDArray

from fedloom.core.advance import Advance, Contribution, Move
from fedloom.core.layout import Layout, TensorSpec
from fedloom.core.perturbation_keys import client_number
from fedloom.core.seeds import stream
from fedloom.core.steps import POOL, SHARED, Directions
from fedloom.core.types import Delta, Params

BODY = tuple(TensorSpec(f"layer.{i}", (40, 30), block=f"layer.{i}") for i in range(4))
HEAD = TensorSpec("head", (3, 10), tags=frozenset({"head"}))
LAYOUT = Layout((*BODY, HEAD))
SEED = 7
STEP = 2.0**-9 * 0.05
"""What one step of the clients is worth."""


def start() -> Params:
    """The model before the first round."""
    vector = stream(SEED, "start").uniform(LAYOUT.size).astype(np.float32)
    return Params(LAYOUT, vector - np.float32(0.5))


def advance(
    number: int, scheme: str = "distinct", *, clients: int = 8, head: bool = True
) -> Advance:
    """What round `number` did: 16-bit scalars of 8 directions, or of 200 of a pool's 4096."""
    draw = stream(SEED, "rounds", round=number)
    agreed = Directions(scheme, 4096 if scheme == "pool" else 64)
    weights = (1 + draw.uniform(clients) * 100).astype(int).tolist()
    made = [(draw.uniform(200) * 4000 - 2000).astype(np.int64) for _ in range(clients)]
    if scheme == "pool":
        sums = np.zeros(4096, dtype=np.int64)
        for weight, scalars in zip(weights, made, strict=True):
            np.add.at(sums, (draw.uniform(200) * 4096).astype(np.int64), weight * scalars)
        parts: tuple[Contribution, ...] = (Contribution(POOL, 1, sums),)
    elif scheme == "shared":
        total = sum(w * scalars[:8] for w, scalars in zip(weights, made, strict=True))
        parts = (Contribution(SHARED, 1, np.asarray(total)),)
    else:
        parts = tuple(
            Contribution(client_number(f"c{i}"), weight, _some(scalars, scheme))
            for i, (weight, scalars) in enumerate(zip(weights, made, strict=True))
        )
    moved = LAYOUT.select(("layer.*",))
    worth = (-STEP / sum(weights),) * len(moved.specs)
    move = Move(moved, worth, agreed, number, parts)
    exact = LAYOUT.select(("head",)) if head else Layout(())
    rest = (draw.uniform(exact.size) - 0.5).astype(np.float32)
    return Advance((move,), Delta(exact, rest))


def _some(scalars: NDArray[np.int64], scheme: str) -> NDArray[np.int64]:
    """Scalars of eight directions in turn, or of eight of 64 candidates."""
    if scheme == "distinct":
        return scalars[:8]
    chosen = np.zeros(64, dtype=np.int64)
    chosen[::8] = scalars[:8]
    return chosen
