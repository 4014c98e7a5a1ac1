"""How many pseudo-labels a client makes in a round, and which of its predictions become some."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedloom.core.errors import require

__all__ = ["Pacing", "sampled", "surest"]

KINDS = ("fixed", "curriculum")


@dataclass(frozen=True)
class Pacing:
    """How many pseudo-labels there are in a round (FeS, Cai et al., MobiCom 2023, section 3.2).

    Attributes:
        kind: ``fixed``: k in every round; ``curriculum``: more as the teacher gets better,
            ``c = min(|U| share t / f, |U|)`` of a client's unlabelled examples U in round t.
        count: k.
        share: of the unlabelled examples, added with every inference.
        every: f, the rounds from one inference to the next.
        after: rounds on labels alone before the first: t counts from there. A new head knows
            nothing that could be taught; one of words that the backbone knows can do without.
    """

    kind: str = "curriculum"
    count: int = 100
    share: float = 0.1
    every: int = 1
    after: int = 0

    def __post_init__(self) -> None:
        require(self.kind in KINDS, "pacing", self.kind, f"one of {', '.join(KINDS)}")
        require(self.count >= 1, "count", self.count, "1 or more")
        require(0 < self.share <= 1, "share", self.share, "above 0, at most 1")
        require(self.every >= 1, "every", self.every, "1 or more")
        require(self.after >= 0, "after", self.after, "0 or more")

    def of(self, round: int, unlabelled: int) -> int:
        """Pseudo-labels of a client with so many unlabelled examples in a round, from 1.

        Between two inferences t / f stays that of the round of the first.
        """
        if round <= self.after:
            return 0
        if self.kind == "fixed":
            return min(self.count, unlabelled)
        inferences = -(-(round - self.after) // self.every)
        return min(round_up(unlabelled * self.share * inferences), unlabelled)


def round_up(value: float) -> int:
    """The whole number at or above, but for what float products add to one: 10 * 0.1 * 3 is 3."""
    return int(np.ceil(value - 1e-9))


def sampled(
    sure: NDArray[np.float64],
    predicted: NDArray[np.int64],
    count: int,
    draws: NDArray[np.float64],
) -> NDArray[np.int64]:
    """Choose predictions in the predicted mix of classes, those of higher confidence more likely.

    In each class examples are drawn without replacement, in proportion to their confidence: those
    with the largest ``u^(1/w)`` are such a sample (Efraimidis and Spirakis, 2006).

    Args:
        sure: float64 ``[n]``, confidence of each prediction, above 0.
        predicted: int64 ``[n]``, its class.
        count: how many to choose; all where there are fewer.
        draws: float64 ``[n]``, uniform in [0, 1).

    Returns:
        int64 ``[min(count, n)]``, ascending.
    """
    if count >= len(sure):
        return np.arange(len(sure))
    classes, sizes = np.unique(predicted, return_counts=True)
    keys = np.log(np.maximum(draws, np.finfo(np.float64).tiny)) / sure
    order = np.argsort(-keys, kind="stable")
    parts = [
        order[predicted[order] == number][:take]
        for number, take in zip(classes, _mix(sizes, count), strict=True)
    ]
    return np.sort(np.concatenate(parts))


def surest(
    sure: NDArray[np.float64], predicted: NDArray[np.int64], count: int
) -> NDArray[np.int64]:
    """Choose the surest predictions of each class, the same share of each.

    The share is ``count / n``, rounded up in every class: none that is predicted is left out, as
    small ones are where the mix is rounded. Of equally sure ones the first are taken.

    Args:
        sure: float64 ``[n]``, confidence of each prediction.
        predicted: int64 ``[n]``, its class.
        count: how many to choose, and up to one more of each class; all where there are fewer.

    Returns:
        int64, ascending.
    """
    if count >= len(sure):
        return np.arange(len(sure))
    order = np.argsort(-sure, kind="stable")
    own = [order[predicted[order] == number] for number in np.unique(predicted)]
    parts = [rows[: round_up(len(rows) * count / len(sure))] for rows in own]
    return np.sort(np.concatenate(parts))


def _mix(sizes: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """`count` in proportion to `sizes`, whole numbers by largest remainders."""
    ideal = sizes * (count / sizes.sum())
    whole: NDArray[np.int64] = np.floor(ideal).astype(np.int64)
    left = count - int(whole.sum())
    whole[np.argsort(whole - ideal, kind="stable")[:left]] += 1
    return whole
