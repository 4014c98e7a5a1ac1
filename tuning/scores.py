"""What an evaluation needs beside a model: batches of similar lengths, and a score. No torch."""

import numpy as np
from numpy.typing import NDArray

__all__ = ["batches_of", "macro_f1"]


def batches_of(
    order: NDArray[np.int64], lengths: NDArray[np.int64], budget: int
) -> list[NDArray[np.int64]]:
    """Runs of `order` of at most `budget` tokens each (at least one example)."""
    ends = np.cumsum(lengths[order])
    batches, start = [], 0
    while start < len(order):
        base = ends[start - 1] if start else 0
        stop = max(int(np.searchsorted(ends, base + budget, side="right")), start + 1)
        batches.append(order[start:stop])
        start = stop
    return batches


def macro_f1(target: NDArray[np.int64], predicted: NDArray[np.int64]) -> float:
    """Unweighted mean of F1 over the classes that occur in either array."""
    classes = int(max(target.max(initial=0), predicted.max(initial=0))) + 1
    hits = np.bincount(target[target == predicted], minlength=classes)
    seen = np.bincount(target, minlength=classes) + np.bincount(predicted, minlength=classes)
    present = seen > 0
    return float((2 * hits[present] / seen[present]).mean()) if present.any() else 0.0
