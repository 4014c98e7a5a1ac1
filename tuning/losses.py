"""From logits to each client's loss."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from fedloom.tuning.base import Losses, Rows

__all__ = [
    "class_losses",
    "client_losses",
    "filled_slots",
    "owners",
    "taught_losses",
    "valid_slots",
]


def client_losses(logits: Tensor, target: Tensor, owner: Tensor, clients: int) -> Losses:
    """Mean cross-entropy per client.

    Args:
        logits: ``[n, C]``, any float dtype; the loss is computed in float32.
        target: int64 ``[n]``.
        owner: int64 ``[n]``, whose prediction each row is.
        clients: k.
    """
    each = functional.cross_entropy(logits.float(), target, reduction="none")
    return _by_client(each, logits.detach().argmax(dim=-1), target, owner, clients)


def _by_client(
    each: Tensor, predicted: Tensor, target: Tensor, owner: Tensor, clients: int
) -> Losses:
    zeros = each.new_zeros(clients)
    count = zeros.index_add(0, owner, torch.ones_like(each.detach()))
    correct = zeros.index_add(0, owner, (predicted == target).to(each.dtype))
    loss = zeros.index_add(0, owner, each) / count.clamp(min=1)
    return Losses(loss, correct, count, each.detach(), predicted, target)


def class_losses(logits: Tensor, labels: NDArray[np.int64], rows: Rows) -> Losses:
    """The losses of a classifier.

    Args:
        logits: ``[k * b, C]``, client by client; the last slots of a client with fewer than b
            examples hold anything.
        labels: int64 ``[N]``, of all examples.
        rows: the examples of each client.
    """
    logits = filled_slots(logits, rows)
    target = torch.from_numpy(labels[np.concatenate(rows)]).to(logits.device)
    owner = torch.from_numpy(owners([len(r) for r in rows])).to(logits.device)
    return client_losses(logits, target, owner, len(rows))


def taught_losses(logits: Tensor, taught: NDArray[np.float32], rows: Rows) -> Losses:
    """The losses of a classifier that learns what a teacher says: ``KL(taught || softmax(z))``.

    For a label, all of a row's weight on its class, this is the cross-entropy; for a teacher's
    probabilities it is distillation at temperature 1 (Hinton et al., 2015, section 2).

    Args:
        logits: ``[n, C]``, client by client.
        taught: float32 ``[n, C]``, a distribution over the classes for each example.
        rows: the examples of each client.
    """
    target = torch.from_numpy(taught).to(logits.device)
    each = functional.cross_entropy(logits.float(), target, reduction="none")
    each = each + torch.special.xlogy(target, target).sum(dim=-1)
    owner = torch.from_numpy(owners([len(r) for r in rows])).to(logits.device)
    predicted = logits.detach().argmax(dim=-1)
    return _by_client(each, predicted, target.argmax(dim=-1), owner, len(rows))


def filled_slots(logits: Tensor, rows: Rows) -> Tensor:
    """``[n, C]`` of ``[k * b, C]``: without the slots that hold no example."""
    slots = valid_slots(rows)
    return logits if slots is None else logits[torch.from_numpy(slots).to(logits.device)]


def owners(counts: Sequence[int]) -> NDArray[np.int64]:
    """``[0, 0, 1, 1, 1, ...]``: client i, counts[i] times."""
    return np.repeat(np.arange(len(counts)), counts)


def valid_slots(rows: Rows) -> NDArray[np.int64] | None:
    """Which of the ``k * b`` slots hold an example; None where all do.

    Clients with fewer than b examples leave their last slots empty.
    """
    counts = [len(r) for r in rows]
    widest = max(counts)
    if min(counts) == widest:
        return None
    return np.flatnonzero(np.arange(widest)[None, :] < np.array(counts)[:, None])
