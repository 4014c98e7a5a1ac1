"""A cohort's batch as a `transformers` model takes it, padded, and what comes back as losses."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedloom.backbones.four_bit import stored_bytes
from fedloom.backbones.mask_head import MaskHead
from fedloom.tuning.base import Losses, Rows, Task
from fedloom.tuning.examples import Examples, ImageExamples, TextExamples
from fedloom.tuning.heads import own_logits, owns_head
from fedloom.tuning.losses import class_losses, client_losses
from fedloom.tuning.store import Store
from fedloom.tuning.targets import next_tokens, padded_starts

__all__ = [
    "activation_bytes",
    "module_memory",
    "padded_inputs",
    "padded_logits",
    "padded_losses",
]


def padded_inputs(
    examples: Examples, rows: Rows, *, pad: int, device: torch.device
) -> dict[str, Tensor]:
    """The arguments of a model for ``[k * b, T]`` tokens (or k * b images), client by client.

    Clients with fewer than b examples repeat one; its slots are left out of the loss.

    Args:
        examples: the data.
        rows: the examples of each client.
        pad: token id of padding; some models find the end of a text by it.
        device: where the model runs.
    """
    widest = max(len(r) for r in rows)
    flat = np.concatenate([np.concatenate((r, np.repeat(r[:1], widest - len(r)))) for r in rows])
    if isinstance(examples, ImageExamples):
        return {"pixel_values": torch.from_numpy(examples.floats(flat)).to(device)}
    if not isinstance(examples, TextExamples):
        raise TypeError(f"examples of {type(examples).__name__}: neither text nor images")
    ids, mask = _padded([examples.ids(int(i)) for i in flat], pad)
    return {
        "input_ids": torch.from_numpy(ids).to(device),
        "attention_mask": torch.from_numpy(mask).to(device),
    }


def _padded(
    pieces: list[NDArray[np.int32]], pad: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    length = max(len(piece) for piece in pieces)
    ids = np.full((len(pieces), length), pad, dtype=np.int64)
    mask = np.zeros((len(pieces), length), dtype=np.int64)
    for i, piece in enumerate(pieces):
        ids[i, : len(piece)] = piece
        mask[i, : len(piece)] = 1
    return ids, mask


def padded_losses(
    out: Any,
    inputs: dict[str, Tensor],
    *,
    store: Store,
    task: Task,
    examples: Examples,
    rows: Rows,
    mask_head: MaskHead | None = None,
) -> Losses:
    """Each client's loss.

    Args:
        out: what the model returned for `inputs`.
        inputs: from `padded_inputs`.
        store: the rows of the cohort, with the head where it is ours.
        task: what the model is trained for.
        examples: the data.
        rows: the examples of each client.
        mask_head: what hidden states at the mask go through.
    """
    if isinstance(examples, TextExamples) and task.kind == "causal-lm":
        return _language(out.logits, examples, rows, inputs["input_ids"].shape[1])
    if examples.labels is None:
        raise TypeError(f"task {task.kind!r}: the examples have no labels")
    logits = padded_logits(out, inputs, store=store, task=task, mask_head=mask_head)
    return class_losses(logits, examples.labels, rows)


def padded_logits(
    out: Any,
    inputs: dict[str, Tensor],
    *,
    store: Store,
    task: Task,
    mask_head: MaskHead | None = None,
) -> Tensor:
    """What a classifier says, ``[k * b, C]``; the arguments are those of `padded_losses`."""
    if not owns_head(task):
        logits: Tensor = out.logits
        return logits
    return own_logits(out.last_hidden_state, inputs, store=store, task=task, mask_head=mask_head)


def _language(logits: Tensor, examples: TextExamples, rows: Rows, width: int) -> Losses:
    logits = logits[:, -width:]  # tokens that a method puts before the text predict nothing
    places = next_tokens(examples, rows, padded_starts(rows, width))
    index, target, owner = (
        torch.from_numpy(a).to(logits.device) for a in (places.index, places.target, places.owner)
    )
    return client_losses(logits.flatten(0, 1)[index], target, owner, len(rows))


def activation_bytes(config: Any, dtype: torch.dtype) -> int:
    """Memory of one token in a training step: about 34 values of the model's width per layer.

    Korthikanti et al., MLSys 2023, equation 1 (34 bytes where values have two), without the scores.
    """
    return 34 * int(config.hidden_size) * int(config.num_hidden_layers) * dtype.itemsize // 2


def module_memory(module: Any, dtype: torch.dtype, tokens: int, *, backward: bool) -> int:
    """Bytes of a model's weights and of the activations of a step over so many tokens.

    Args:
        module: the model, as `transformers` has it.
        dtype: of its activations.
        tokens: of one batch.
        backward: whether every layer keeps its activations; else two layers' worth is worked in.
    """
    taken = activation_bytes(module.config, dtype) * tokens
    if not backward:
        taken = taken * 2 // max(int(module.config.num_hidden_layers), 2)
    return stored_bytes(module) + taken
