"""Ways to multiply with a frozen matrix, timed in turn on one thread."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

__all__ = ["Contestant", "error", "timed"]

FEWEST = 3
"""Turns at least."""


@dataclass(frozen=True)
class Contestant:
    """One way.

    Attributes:
        name: in the table.
        inputs: type of its inputs.
        forward: ``x W~^T``.
        dx: ``dy W~``, or None where it has none.
        nbytes: of the matrix as it is kept.
        expected: what `forward` should be, float32.
    """

    name: str
    inputs: str
    forward: Callable[[], Any]
    dx: Callable[[], Any] | None
    nbytes: int
    expected: Tensor


def error(found: Tensor, expected: Tensor) -> float:
    """Relative, by Frobenius norms."""
    return float((found.float() - expected).norm() / expected.norm())


def timed(contestants: Sequence[Contestant], seconds: float) -> list[dict[str, Any]]:
    """Milliseconds of this thread, the least of as many turns as the time allows.

    All are called in turn, so that what else the machine does meets all of them, and none finds its
    weights in a cache that only its own repetition could have filled.

    Args:
        contestants: of one shape.
        seconds: for all turns together; there are three at least.
    """
    calls = [(c, kind, call) for c in contestants for kind, call in _calls(c)]
    least: dict[tuple[str, str, str], float] = {}
    for _, _, call in calls:
        call()  # prepares
    began, turns = time.perf_counter(), 0
    while turns < FEWEST or time.perf_counter() - began < seconds:
        turns += 1
        for contestant, kind, call in calls:
            start = time.thread_time()
            call()
            took = 1e3 * (time.thread_time() - start)
            key = contestant.name, contestant.inputs, kind
            least[key] = min(took, least.get(key, took))
    return [
        {
            "name": c.name,
            "inputs": c.inputs,
            "bytes": c.nbytes,
            "error": error(c.forward(), c.expected),
            "forward": least[c.name, c.inputs, "forward"],
            "dx": least.get((c.name, c.inputs, "dx")),
        }
        for c in contestants
    ]


def _calls(contestant: Contestant) -> list[tuple[str, Callable[[], Any]]]:
    both = [("forward", contestant.forward)]
    return both if contestant.dx is None else [*both, ("dx", contestant.dx)]
