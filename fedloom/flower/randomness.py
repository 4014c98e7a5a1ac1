"""Global generators of random numbers, set for a while: an app draws from them as it likes."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from fedloom.core.seeds import derive
from fedloom.strategies.flower.hosting import borrowed_randomness

__all__ = ["seeded"]


@contextmanager
def seeded(seed: int, purpose: str, key: str = "") -> Iterator[None]:
    """Let Python's, numpy's and, where it is loaded, torch's generator start from a seed.

    All are as they were afterwards.

    Args:
        seed: of the run.
        purpose: what is drawn.
        key: what else tells it from other draws.
    """
    torch = sys.modules.get("torch")
    before = None if torch is None else torch.get_rng_state()
    with borrowed_randomness(seed, f"{purpose}\0{key}", round=0):
        if torch is not None:
            torch.manual_seed(derive(seed, f"torch.{purpose}\0{key}") >> 65)
        try:
            yield
        finally:
            if torch is not None:
                torch.set_rng_state(before)
