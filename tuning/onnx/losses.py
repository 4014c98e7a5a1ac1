"""What batches of a model without torch gave: of each example a sum, whatever it predicts."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fedloom.backbones.onnx.matrices import Floats
from fedloom.core.layout import Layout

__all__ = ["BatchLosses", "WordLosses"]


class BatchLosses(Protocol):
    """Losses of r batches of b examples."""

    @property
    def sums(self) -> NDArray[np.float64]:
        """float64 ``[r, b]``: of the losses of each example's predictions."""
        ...

    @property
    def counts(self) -> NDArray[np.int64]:
        """int64 ``[r, b]``: predictions of each example."""
        ...

    @property
    def correct(self) -> NDArray[np.int64]:
        """int64 ``[r, b]``: of them those that are right."""
        ...

    def gradient(self, exact: Layout) -> Floats:
        """The gradient of the first batch's mean loss to tensors of the head, ``[P]``."""
        ...


@dataclass(frozen=True, eq=False)
class WordLosses:
    """Of a language model, whose head is frozen; see `BatchLosses`.

    Attributes:
        sums: float64 ``[r, b]``.
        counts: int64 ``[r, b]``.
        correct: int64 ``[r, b]``.
    """

    sums: NDArray[np.float64]
    counts: NDArray[np.int64]
    correct: NDArray[np.int64]

    def gradient(self, exact: Layout) -> Floats:
        """Nothing: the model has no head that trains."""
        return np.zeros(exact.size, dtype=np.float32)
