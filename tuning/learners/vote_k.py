"""A few examples that stand for all of them: vote-k."""

import numpy as np
from numpy.typing import NDArray

__all__ = ["vote_k"]

BLOCK = 1024  # rows of the similarity matrix that are in memory at once
DISCOUNT = 10.0


def vote_k(features: NDArray[np.float32], count: int, neighbours: int) -> NDArray[np.int64]:
    """Choose examples whose neighbourhoods are large and far apart.

    Every example votes for its nearest neighbours by cosine. The next one chosen is the one with
    most votes, where the vote of an example counts ``10^-s`` once s of those that it votes for are
    chosen (Su et al., ICLR 2023, section 2.1; FeS, Cai et al., MobiCom 2023, chooses what clients
    label by it). Of equal ones the first is taken.

    Args:
        features: float32 ``[n, d]``.
        count: how many to choose; all where there are fewer.
        neighbours: how many each votes for; all others where there are fewer.

    Returns:
        int64 ``[min(count, n)]``, ascending.
    """
    total = len(features)
    if count >= total:
        return np.arange(total)
    voted = _nearest(features, min(neighbours, total - 1))
    supporters = [np.flatnonzero(row) for row in _votes(voted).T]
    weights = np.ones(total)
    scores = np.array([len(own) for own in supporters], dtype=np.float64)
    chosen = np.zeros(count, dtype=np.int64)
    for i in range(count):
        chosen[i] = best = int(scores.argmax())
        mine = supporters[best]
        lost = weights[mine] * (1 - 1 / DISCOUNT)
        np.subtract.at(scores, voted[mine], lost[:, None])
        weights[mine] /= DISCOUNT
        scores[best] = -np.inf
    return np.sort(chosen)


def _votes(voted: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Bool ``[n, n]``: whether the row's example votes for the column's."""
    votes = np.zeros((len(voted), len(voted)), dtype=bool)
    np.put_along_axis(votes, voted, True, axis=1)
    return votes


def _nearest(features: NDArray[np.float32], neighbours: int) -> NDArray[np.int64]:
    """int64 ``[n, neighbours]``: for each example the others with the largest cosine."""
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    unit = features / np.where(lengths > 0, lengths, 1.0)
    found = np.empty((len(unit), neighbours), dtype=np.int64)
    for start in range(0, len(unit), BLOCK):
        block = unit[start : start + BLOCK]
        cosines = block @ unit.T
        cosines[np.arange(len(block)), start + np.arange(len(block))] = -np.inf
        order = np.argsort(-cosines, axis=1, kind="stable")
        found[start : start + len(block)] = order[:, :neighbours]
    return found
