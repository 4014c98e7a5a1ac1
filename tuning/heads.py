"""The classifiers of `transformers` models: their own, or ours on hidden states that we pool."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from fedloom.backbones.base import Linear
from fedloom.backbones.mask_head import MaskHead
from fedloom.core.errors import ModelError
from fedloom.tuning.attach import attach
from fedloom.tuning.base import Task
from fedloom.tuning.head_part import HeadPart
from fedloom.tuning.store import Store
from fedloom.tuning.word_heads import Start

__all__ = ["HEAD", "OWN", "heads_of", "mean_of", "own_logits", "owns_head"]

HEAD = "head"
"""The block of every head."""
OWN = "classifier"
"""What a head of ours is called."""


def owns_head(task: Task) -> bool:
    """Whether the head is ours, on what we pool outside the `transformers` model."""
    return task.pooling != "model" and task.kind != "causal-lm"


def heads_of(
    module: Any,
    linears: Iterable[Linear],
    task: Task,
    new: frozenset[str],
    *,
    start: Start | None = None,
) -> list[HeadPart]:
    """The heads that a task trains in full; none for a language model.

    Args:
        module: the `transformers` model.
        linears: its linear maps.
        task: what it is trained for.
        new: tensors of the model that its folder does not hold. Of new heads in a row the last
            starts as the task says and the others at random, so that gradients reach them.
        start: weight and bias that a head of ours starts with; None as the task says.

    Raises:
        ModelError: the model has no head outside its base model.
    """
    if task.kind == "causal-lm":
        return []
    if owns_head(task):
        linear = Linear(OWN, HEAD, int(module.config.hidden_size), task.classes)
        weight, bias = start or (None, None)
        return [HeadPart(linear, weight=weight, bias=bias, init=task.head_init)]
    found = [linear for linear in linears if linear.block == HEAD]
    if not found:
        raise ModelError(f"{type(module).__name__}: no head outside its base model")
    return [
        _inner(module.get_submodule(linear.name), linear, task, new, last=linear is found[-1])
        for linear in found
    ]


def _inner(
    inner: nn.Module, linear: Linear, task: Task, new: frozenset[str], *, last: bool
) -> HeadPart:
    weight, bias = inner.weight, inner.bias
    fresh = f"{linear.name}.weight" in new
    return HeadPart(
        linear,
        weight=None if fresh else _array(weight),
        bias=None if fresh or bias is None else _array(bias),
        has_bias=bias is not None,
        init=task.head_init if last else "normal",
    )


def _array(tensor: Any) -> NDArray[np.float32]:
    array: NDArray[np.float32] = tensor.detach().float().cpu().numpy()
    return array


def own_logits(
    hidden: Tensor,
    inputs: Mapping[str, Tensor],
    *,
    store: Store,
    task: Task,
    mask_head: MaskHead | None = None,
) -> Tensor:
    """What our head says: logits ``[k * b, C]``.

    Args:
        hidden: ``[k * b, T, d]``, the model's last hidden states.
        inputs: what the model was called with: ``input_ids`` and ``attention_mask``,
            ``[k * b, T]`` both, or images.
        store: the rows of the cohort, with the head among its sites.
        task: what the model is trained for.
        mask_head: what hidden states at the mask go through.
    """
    head = store.sites[OWN].after
    if head is None:
        raise TypeError(f"site {OWN!r}: nothing is attached after it")
    pooled = _pooled(hidden, inputs, task, mask_head)
    pooled = pooled.view(store.clients, -1, pooled.shape[-1])
    blank = pooled.new_zeros(*pooled.shape[:2], task.classes)
    return attach(pooled, blank, head, store.anchor).flatten(0, 1)


def _pooled(
    hidden: Tensor, inputs: Mapping[str, Tensor], task: Task, mask_head: MaskHead | None
) -> Tensor:
    """What the head reads, float32 ``[k * b, d]``."""
    mask = inputs.get("attention_mask")
    if mask is not None:
        # A method of the peft library may put tokens before the text; they are no part of it.
        hidden = hidden[:, -mask.shape[1] :]
    if task.pooling == "mean":
        pooled = mean_of(hidden, mask)
        if not task.normalize:
            return pooled
        return functional.normalize(pooled, dim=-1) * math.sqrt(pooled.shape[-1])
    if mask is None:
        raise TypeError(f"pooling {task.pooling!r}: it reads a token of a text")
    asked = inputs["input_ids"] == task.mask
    place = mask.sum(1) - 1 if task.pooling == "last" else asked.int().argmax(1)
    read = hidden[torch.arange(len(hidden), device=hidden.device), place].float()
    if mask_head is not None:
        read = mask_head(read)
    return read


def mean_of(hidden: Tensor, mask: Tensor | None) -> Tensor:
    """Mean over each row's tokens, float32 ``[n, d]``."""
    if mask is None:
        return hidden.float().mean(1)
    weight = mask.unsqueeze(-1).float()
    return (hidden.float() * weight).sum(1) / weight.sum(1)
