"""The ways in which a task can be run without torch, and what each takes of memory."""

import numpy as np
from numpy.typing import NDArray

from fedloom.backbones.onnx.footprint import Footprint
from fedloom.backbones.onnx.words import ROWS, WORDS
from fedloom.backbones.shape import Shape
from fedloom.tuning.base import Rows
from fedloom.tuning.onnx.session import PASS
from fedloom.tuning.ways import COPIES, SCATTERED, Way

__all__ = ["ways_of"]

_SLACK = 8 * 10**6
"""Bytes that steps take whatever their size: code and buffers of libraries. Measured."""
_DIRECTION = 24
"""Bytes of a row for each number that trains: a direction as it is drawn, used, and fed."""


def ways_of(
    shape: Shape,
    weights: Footprint,
    lengths: NDArray[np.int64],
    plan: Rows,
    *,
    directions: int,
    trained: int,
    size: int,
    vocabulary: int = 0,
) -> list[Way]:
    """All ways of running batches: so many examples in a pass at most.

    Args:
        shape: of the backbone.
        weights: what its graphs take.
        lengths: tokens of each example.
        plan: the examples of each batch.
        directions: that are drawn at once, at most; 0 where nothing trains.
        trained: numbers that train.
        size: numbers of the model that may train.
        vocabulary: words whose losses are looked at; 0 for a classifier.
    """
    batch = max(len(rows) for rows in plan)
    longest = max(int(lengths[rows].max()) for rows in plan)
    most = min(batch, max(PASS // longest, 1))
    fixed = _SLACK + 4 * COPIES * size + _DIRECTION * directions * trained
    fixed += 2 * 4 * shape.width * batch * longest  # as embedded, in parts and joined
    fixed += 2 * 4 * min(vocabulary, WORDS) * ROWS  # as multiplied, and as copied out
    found = []
    for examples in sorted({-(-most // parts) for parts in range(1, most + 1)}):
        tokens = examples * longest
        active = 2 * int(SCATTERED * tokens * _per_token(shape, longest))  # of either graph
        taken = fixed + max(weights.building, weights.running + active)
        found.append(Way(examples, -(-batch // examples), False, tokens, taken))
    return found


def _per_token(shape: Shape, length: int) -> int:
    """Bytes of a token in a block: its states, those inside of the MLP, and scores."""
    inner = (3 if shape.gated else 2) * shape.inner
    return 4 * (4 * shape.width + inner + 2 * shape.heads * length)
