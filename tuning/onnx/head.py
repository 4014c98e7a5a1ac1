"""What the head reads, what it says, and the gradient of its own tensors, in numpy."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedloom.backbones.onnx.matrices import Floats
from fedloom.core.layout import Layout
from fedloom.tuning.base import Task

__all__ = ["HeadLosses", "head_losses", "pooled"]


@dataclass(frozen=True, eq=False)
class HeadLosses:
    """What r batches of b examples gave.

    Attributes:
        each: float32 ``[r, b]``, the losses.
        predicted: int64 ``[r, b]``, classes.
        target: int64 ``[r, b]``, what was right.
        surplus: float32 ``[r, b, C]``: the gradient of the sum of losses to the logits.
        read: float32 ``[r, b, d]``: what the head read.
    """

    each: Floats
    predicted: NDArray[np.int64]
    target: NDArray[np.int64]
    surplus: Floats
    read: Floats

    @property
    def sums(self) -> NDArray[np.float64]:
        """float64 ``[r, b]``, the losses: an example has one prediction."""
        return self.each.astype(np.float64)

    @property
    def counts(self) -> NDArray[np.int64]:
        """int64 ``[r, b]``, ones."""
        return np.ones(self.target.shape, dtype=np.int64)

    @property
    def correct(self) -> NDArray[np.int64]:
        """int64 ``[r, b]``, 1 where the prediction is right."""
        return np.asarray(self.predicted == self.target, dtype=np.int64)

    def gradient(self, exact: Layout) -> Floats:
        """The gradient of the first batch's mean loss to tensors of the head, ``[P]``.

        ``softmax(W x + b) - y`` for each example, times what it read; found forwards.
        """
        surplus = self.surplus[0] / np.float32(len(self.surplus[0]))
        own = {2: surplus.T @ self.read[0], 1: surplus.sum(0)}
        found = [own[len(spec.shape)].reshape(-1) for spec in exact]
        return np.concatenate(found) if found else np.zeros(0, dtype=np.float32)


def head_losses(read: Floats, own: Sequence[Floats], target: NDArray[np.int64]) -> HeadLosses:
    """Cross-entropies of batches, each through weights of its own.

    Args:
        read: ``[r, b, d]``.
        own: the head's weight ``[r or 1, C, d]`` and, where it has one, bias ``[r or 1, C]``.
        target: int64 ``[r, b]``.
    """
    weight, *bias = own
    logits = np.matmul(read, weight.transpose(0, 2, 1))
    if bias:
        logits += bias[0][:, None, :]
    logits -= logits.max(-1, keepdims=True)
    exponentials = np.exp(logits)
    total = exponentials.sum(-1, keepdims=True)
    right = target[..., None]
    each = np.log(total[..., 0]) - np.take_along_axis(logits, right, -1)[..., 0]
    surplus = exponentials / total
    np.put_along_axis(surplus, right, np.take_along_axis(surplus, right, -1) - 1, -1)
    return HeadLosses(each, logits.argmax(-1), target, surplus, read)


def pooled(hidden: Floats, lengths: NDArray[np.int64], task: Task) -> Floats:
    """What the head reads, ``[n, d]``, of hidden states ``[n, t, d]`` of so many tokens."""
    if task.pooling in ("last", "model"):
        return np.asarray(hidden[np.arange(len(hidden)), lengths - 1])
    there = np.arange(hidden.shape[1]) < lengths[:, None]
    sums = np.einsum("ntd,nt->nd", hidden, there.astype(np.float32))
    mean = sums / lengths[:, None].astype(np.float32)
    if not task.normalize:
        return np.asarray(mean)
    length = np.maximum(np.sqrt(np.square(mean).sum(-1, keepdims=True)), np.float32(1e-12))
    return np.asarray(mean / length * np.float32(mean.shape[-1] ** 0.5))
