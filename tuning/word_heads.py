"""Heads that start as words: a classifier that says at once which class's word fits best.

The backbone knows the words already, so that such a head is better than chance before any training
(PET: Schick and Schütze, EACL 2021, section 3). What it is made of goes with what is read:

* ``last``: the rows of a causal language model's head for the first token of each word, no bias.
* ``mask``: the rows and biases of a masked language model's head for the token of each word.
* ``mean``: the sentence encoder's own vectors of the words, as in zero-shot retrieval.
"""

from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from fedloom.backbones.fused import FusedBackbone
from fedloom.backbones.mask_head import MaskHead, load_mask_head
from fedloom.backbones.packing import pack
from fedloom.core.errors import ConfigError
from fedloom.tuning.base import Task

__all__ = ["SHARPNESS", "Start", "answering", "encoded", "fused_words", "mask_head_of"]

Start: TypeAlias = tuple[NDArray[np.float32], NDArray[np.float32] | None]
"""The weight ``[C, d]`` and the bias ``[C]`` that a head starts with."""

SHARPNESS = 20.0
"""Logits of a sentence encoder are so many times the cosine of text and word.

Sentence encoders are trained with that scale: it is the default of Sentence-Transformers'
``MultipleNegativesRankingLoss``.
"""


def mask_head_of(folder: Path, task: Task, device: torch.device) -> MaskHead | None:
    """What hidden states at the mask go through before the head; None where none is read.

    Raises:
        ConfigError: the folder has no head of a masked language model.
    """
    return load_mask_head(folder, device) if task.pooling == "mask" else None


def encoded(vectors: Tensor, task: Task) -> Start:
    """The head of a sentence encoder.

    Row c is ``SHARPNESS / r * (e_c - mean of e)``, with e the vectors at length one and r the
    length of what the head reads: sqrt(d) where that is made so, else about that of the words. What
    the rows have in common is left out: softmax does not see it.

    Args:
        vectors: pooled vectors of the words, ``[C, d]``.
        task: whose head it is.
    """
    lengths = vectors.norm(dim=1)
    read = vectors.shape[1] ** 0.5 if task.normalize else float(lengths.mean())
    units = functional.normalize(vectors, dim=1)
    return _array(SHARPNESS / read * (units - units.mean(0))), None


def answering(task: Task, rows: Tensor | None, mask_head: MaskHead | None) -> Start:
    """The head of a language model.

    Args:
        task: whose head it is.
        rows: of the words' tokens in a causal language model's head, ``[C, d]``; None where it
            has none.
        mask_head: of a masked language model.

    Raises:
        ConfigError: the backbone has no head of a language model.
    """
    if mask_head is not None:
        weight, bias = mask_head.rows([word[0] for word in task.words])
        return _array(weight), _array(bias)
    if rows is None:
        text = "mean or mask: the backbone has no causal language model's head (lm_head.weight)"
        raise ConfigError(f"backbone.pooling = 'last': {text}")
    return _array(rows), None


def fused_words(backbone: FusedBackbone, task: Task, mask_head: MaskHead | None) -> Start:
    """The head of words on a fused backbone.

    Raises:
        ConfigError: the backbone has no head of a language model, and is to answer as one.
    """
    if task.pooling != "mean":
        tokens = [word[0] for word in task.words]
        rows = None if backbone.head is None else backbone.head.rows(tokens)
        return answering(task, rows, mask_head)
    packing = pack([[np.array(word, np.int32) for word in task.words]], read=None)
    packing = packing.to(backbone.device)
    with torch.no_grad():
        hidden = backbone.run(backbone.embed(packing), packing)
        return encoded(backbone.finish(hidden, packing, "mean")[0].float(), task)


def _array(tensor: Tensor) -> NDArray[np.float32]:
    array: NDArray[np.float32] = tensor.detach().float().cpu().numpy()
    return array
