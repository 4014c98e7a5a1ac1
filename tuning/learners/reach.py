"""How far finite differences look along a direction, and how many directions run together."""

import math

__all__ = ["FAR", "MOST", "TOKENS", "at_once", "reach"]

MOST = 8
"""Directions of a client in one forward pass at most: those that a group of keys has."""
TOKENS = 2048
"""Tokens of a pass that are worth filling up with more directions: above, products are as fast
alone, and a device that chose this learner for its memory would lose it again."""

FAR = 100
"""How many times shorter than usual a step must be for the losses to be looked at."""


def reach(size: int, *, coarse: bool = False) -> float:
    """How far to look along a direction of length ``sqrt(size)``: a step of 0.2 in all.

    Args:
        size: of the tensors that move, d.
        coarse: products round to bfloat16: a step of 5.
    """
    return (5.0 if coarse else 0.2) / math.sqrt(size)


def at_once(tokens: int, most: int, *, room: int = TOKENS) -> int:
    """Directions of a client in one pass: several where batches are small.

    Args:
        tokens: of a batch.
        most: directions at most.
        room: tokens of a pass.
    """
    return min(max(room // max(tokens, 1), 1), most)
