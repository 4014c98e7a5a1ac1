"""Updates of clients that step along known directions, for tests of what becomes of them."""

from collections.abc import Sequence

import numpy as np

from fedloom.core.layout import Layout, TensorSpec
from fedloom.core.steps import Directions, Steps
from fedloom.core.types import ClientUpdate, Delta

__all__ = ["BODY", "HEAD", "MODEL", "SEED", "stepped", "whole"]

HEAD = Layout((TensorSpec("head", (3,), tags=frozenset({"head"})),))
BODY = Layout((TensorSpec("a", (4, 8)), TensorSpec("b", (8,))))
MODEL = Layout.concat((BODY, HEAD))
SEED = 5


def stepped(
    client: str,
    scalars: Sequence[int],
    *,
    examples: int = 1,
    round: int = 1,
    coefficient: float = -0.25,
    directions: Directions = Directions(),  # noqa: B008 (a frozen value)
    layout: Layout = BODY,
    head: Sequence[float] | None = None,
) -> ClientUpdate:
    """An update of steps along directions in `layout`, and numbers for the head, if any."""
    numbers = np.array(scalars, dtype=np.int32)
    steps = Steps(layout, numbers, coefficient, directions)
    rest = Layout(()) if head is None else HEAD
    vector = np.array([] if head is None else head, dtype=np.float32)
    bound = steps.bound(SEED, round=round, client=client)
    return ClientUpdate(client, round, examples, delta=Delta(rest, vector, bound))


def whole(
    client: str, vector: Sequence[float], *, examples: int = 1, layout: Layout = BODY
) -> ClientUpdate:
    """An update number by number."""
    return ClientUpdate(
        client, 1, examples, delta=Delta(layout, np.array(vector, dtype=np.float32))
    )
