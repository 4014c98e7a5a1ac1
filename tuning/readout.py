"""From the last hidden states of a fused backbone to losses, wherever the labels are."""

from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from fedloom.backbones.base import Packing
from fedloom.tuning.attach import attach
from fedloom.tuning.base import Losses, Rows
from fedloom.tuning.examples import Examples, TextExamples
from fedloom.tuning.losses import client_losses, owners, summed, valid_slots
from fedloom.tuning.store import Store
from fedloom.tuning.targets import Places, next_tokens, packed_starts
from fedloom.tuning.word_losses import word_losses

if TYPE_CHECKING:
    from fedloom.tuning.fused_model import FusedModel

__all__ = ["class_logits", "losses_at", "places_of", "pooled"]


def places_of(
    model: "FusedModel",
    examples: Examples,
    lengths: NDArray[np.int64],
    rows: Rows,
    packing: Packing,
) -> Places:
    """What a batch predicts, and where from: its tokens, or the slots ``k * b`` of a classifier.

    Args:
        model: the model; its task says what is predicted.
        examples: the data.
        lengths: int64 ``[N]``, tokens of each example.
        rows: the batch.
        packing: where its tokens lie.
    """
    if model.task.kind == "causal-lm":
        assert isinstance(examples, TextExamples)
        return next_tokens(examples, rows, packed_starts(lengths, rows, packing.length))
    assert examples.labels is not None
    slots = valid_slots(rows)
    index = np.arange(len(rows) * packing.examples) if slots is None else slots
    target = examples.labels[np.concatenate(rows)]
    return Places(index, target, owners([len(r) for r in rows]))


def losses_at(
    model: "FusedModel",
    store: Store,
    hidden: Tensor,
    packing: Packing,
    places: Places,
    *,
    clients: int = 0,
) -> Losses:
    """The losses of a batch.

    Args:
        model: whose head reads.
        store: rows of the head: one for each client of the packing.
        hidden: after the last block, ``[k, L, d]`` (``[k, b, d]`` where trimmed).
        packing: where the tokens lie.
        places: what is predicted.
        clients: whose predictions they are (0: as many clients as the packing has).
    """
    device = hidden.device
    index, target, owner = (
        torch.from_numpy(a).to(device) for a in (places.index, places.target, places.owner)
    )
    if model.task.kind == "causal-lm":
        each, predicted = word_losses(model.backbone, hidden.flatten(0, 1)[index], target)
        return summed(each, predicted, target, owner, clients or packing.clients)
    logits = class_logits(model, store, pooled(model, hidden, packing))[index]
    return client_losses(logits, target, owner, clients or packing.clients)


def class_logits(model: "FusedModel", store: Store, read: Tensor) -> Tensor:
    """What the head says of pooled vectors ``[k, b, d]``: logits ``[k * b, C]``."""
    head = store.sites[model.head_name].after
    assert head is not None
    blank = read.new_zeros(*read.shape[:2], model.task.classes)
    return attach(read, blank, head, store.anchor).flatten(0, 1)


def pooled(model: "FusedModel", hidden: Tensor, packing: Packing) -> Tensor:
    """What the head reads of the last hidden states, float32 ``[k, b, d]``."""
    backbone = model.backbone
    if model.read is None:
        out = backbone.finish(hidden, packing, "mean").float()
        if model.task.normalize:
            out = functional.normalize(out, dim=-1) * out.shape[-1] ** 0.5
        return out
    out = backbone.finish(hidden, packing, "last", trimmed=True)
    if model.mask_head is not None:
        return model.mask_head(out)
    pools = model.task.pooling == "model" and backbone.pooler is not None
    return (backbone.pool_first(out) if pools else out).float()
