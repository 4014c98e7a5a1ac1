"""A head of words on a `transformers` model."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from fedloom.backbones.checkpoint import open_checkpoint
from fedloom.backbones.mask_head import MaskHead
from fedloom.tuning.base import Task
from fedloom.tuning.heads import mean_of
from fedloom.tuning.word_heads import Start, answering, encoded

__all__ = ["word_start"]

LANGUAGE_HEADS = ("lm_head.weight", "embed_out.weight")
"""What checkpoints of causal language models call the rows of their head."""


def word_start(module: Any, folder: Path, task: Task, mask_head: MaskHead | None) -> Start | None:
    """How a head of words starts; None for another head.

    Args:
        module: the `transformers` model, with nothing attached.
        folder: where it is from.
        task: what it is trained for.
        mask_head: of the same folder.

    Raises:
        ConfigError: the model has no head of a language model, and is to answer as one.
    """
    if not task.words:
        return None
    if task.pooling != "mean":
        rows = _token_rows(module, folder)
        tokens = torch.tensor([word[0] for word in task.words])
        return answering(task, None if rows is None else rows[tokens.to(rows.device)], mask_head)
    texts = [torch.tensor(word, device=module.device) for word in task.words]
    ids = pad_sequence(texts, batch_first=True)
    mask = pad_sequence([torch.ones_like(text) for text in texts], batch_first=True)
    with torch.no_grad():
        hidden = module(input_ids=ids, attention_mask=mask).last_hidden_state
    return encoded(mean_of(hidden, mask), task)


def _token_rows(module: Any, folder: Path) -> Tensor | None:
    """The rows of a causal language model's head, which may be the embeddings of its tokens."""
    import transformers

    config = module.config
    if type(config) in transformers.MODEL_FOR_MASKED_LM_MAPPING:
        return None
    saved = open_checkpoint(folder, torch.device("cpu")).find(LANGUAGE_HEADS)
    if saved is not None or not getattr(config, "tie_word_embeddings", False):
        return saved
    rows: Tensor = module.get_input_embeddings().weight
    return rows
