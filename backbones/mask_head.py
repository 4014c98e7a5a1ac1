"""What masked language models have on top, frozen: a transform, and a row for every token.

The tensors' names are those of transformers: BertForMaskedLM, RobertaForMaskedLM (and its kin), and
DistilBertForMaskedLM.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from fedloom.backbones.checkpoint import Checkpoint, open_checkpoint, read_config
from fedloom.core.errors import ConfigError, ModelError

__all__ = ["MaskHead", "load_mask_head"]


@dataclass(frozen=True)
class _Names:
    """What a family calls its head; tied rows are the embeddings of its tokens."""

    dense: str
    norm: str
    rows: tuple[str, ...]
    bias: tuple[str, ...]


_FAMILIES = (
    _Names(
        "cls.predictions.transform.dense",
        "cls.predictions.transform.LayerNorm",
        ("cls.predictions.decoder.weight", "bert.embeddings.word_embeddings.weight"),
        ("cls.predictions.decoder.bias", "cls.predictions.bias"),
    ),
    _Names(
        "lm_head.dense",
        "lm_head.layer_norm",
        ("lm_head.decoder.weight", "roberta.embeddings.word_embeddings.weight"),
        ("lm_head.decoder.bias", "lm_head.bias"),
    ),
    _Names(
        "vocab_transform",
        "vocab_layer_norm",
        ("vocab_projector.weight", "distilbert.embeddings.word_embeddings.weight"),
        ("vocab_projector.bias",),
    ),
)
_ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "gelu": functional.gelu,
    "gelu_new": lambda x: functional.gelu(x, approximate="tanh"),
    "relu": functional.relu,
}


@dataclass(frozen=True)
class MaskHead:
    """A masked language model's head, in float32.

    Attributes:
        dense: weight ``[d, d]`` and bias ``[d]``.
        norm: weight ``[d]`` and bias ``[d]`` of the layer norm, and what it adds to the variance.
        activation: between them.
        checkpoint: where the rows of tokens are.
        names: of the rows and of their biases.
    """

    dense: tuple[Tensor, Tensor]
    norm: tuple[Tensor, Tensor, float]
    activation: Callable[[Tensor], Tensor]
    checkpoint: Checkpoint
    names: tuple[tuple[str, ...], tuple[str, ...]]

    def __call__(self, hidden: Tensor) -> Tensor:
        """``LayerNorm(activation(W x + b))`` of hidden states ``[..., d]`` at the mask, float32."""
        weight, bias, eps = self.norm
        inner = self.activation(functional.linear(hidden.float(), *self.dense))
        return functional.layer_norm(inner, weight.shape, weight, bias, eps)

    def rows(self, tokens: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Rows ``[n, d]`` and biases ``[n]`` of some tokens."""
        weight, bias = (self.checkpoint.get(names) for names in self.names)
        index = torch.tensor(tokens, device=weight.device)
        return weight[index].float(), bias[index].float()


def load_mask_head(folder: Path, device: torch.device) -> MaskHead:
    """Read the head of a masked language model.

    Raises:
        ConfigError: the folder has none that is known here.
        ModelError: it says of it what is not known here, or lacks some of it.
    """
    checkpoint, config = open_checkpoint(folder, device), read_config(folder)
    names = next((n for n in _FAMILIES if f"{n.dense}.weight" in checkpoint.files), None)
    if names is None:
        known = " or ".join(f"{n.dense}.weight" for n in _FAMILIES)
        text = f"mean, last or model: {folder} has no head of a masked language model ({known})"
        raise ConfigError(f"backbone.pooling = 'mask': {text}")

    def pair(name: str) -> tuple[Tensor, Tensor]:
        found = (checkpoint.get((f"{name}.{part}",)).float() for part in ("weight", "bias"))
        weight, bias = found
        return weight, bias

    # DistilBERT's configuration has other words, and no epsilon: its code says 1e-12.
    kind = str(config.get("hidden_act", config.get("activation", "gelu")))
    if kind not in _ACTIVATIONS:
        known = ", ".join(_ACTIVATIONS)
        raise ModelError(f"{folder}: hidden_act = {kind!r} in the mask's head; one of {known}")
    eps = config.get("layer_norm_eps", 1e-12)
    if not isinstance(eps, float):
        raise ModelError(f"{folder}: layer_norm_eps = {eps!r}: expected a number")
    return MaskHead(
        pair(names.dense),
        (*pair(names.norm), eps),
        _ACTIVATIONS[kind],
        checkpoint,
        (names.rows, names.bias),
    )
