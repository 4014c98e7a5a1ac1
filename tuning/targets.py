"""What a language model is to predict, and from which of a batch's tokens."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedloom.tuning.base import Rows
from fedloom.tuning.examples import TextExamples

__all__ = ["Places", "next_tokens", "packed_starts", "padded_starts"]


@dataclass(frozen=True)
class Places:
    """Predictions of a batch, client by client.

    Attributes:
        index: int64 ``[n]``, the token (in the batch laid flat) that each prediction is made from.
        target: int64 ``[n]``, the token that follows it.
        owner: int64 ``[n]``, whose prediction it is.
    """

    index: NDArray[np.int64]
    target: NDArray[np.int64]
    owner: NDArray[np.int64]


def padded_starts(rows: Rows, width: int) -> list[NDArray[np.int64]]:
    """Where each example begins in a ``[k * b, width]`` batch laid flat."""
    widest = max(len(r) for r in rows)
    return [(i * widest + np.arange(len(r))) * width for i, r in enumerate(rows)]


def packed_starts(lengths: NDArray[np.int64], rows: Rows, width: int) -> list[NDArray[np.int64]]:
    """Where each example begins in packed hidden states ``[k, width]`` laid flat."""
    return [i * width + np.cumsum(lengths[r]) - lengths[r] for i, r in enumerate(rows)]


def next_tokens(examples: TextExamples, rows: Rows, starts: Sequence[NDArray[np.int64]]) -> Places:
    """Every token after the prompt, predicted from the one before it."""
    index: list[NDArray[np.int64]] = []
    target: list[NDArray[np.int64]] = []
    owner: list[NDArray[np.int64]] = []
    for client, (own_rows, own_starts) in enumerate(zip(rows, starts, strict=True)):
        for row, start in zip(own_rows, own_starts, strict=True):
            ids = examples.ids(int(row))
            first = max(examples.prompt_length(int(row)), 1)
            index.append(start + np.arange(first - 1, len(ids) - 1))
            target.append(ids[first:].astype(np.int64))
            owner.append(np.full(len(ids) - first, client))
    return Places(np.concatenate(index), np.concatenate(target), np.concatenate(owner))
