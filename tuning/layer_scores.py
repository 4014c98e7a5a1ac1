"""How alike a frozen backbone finds different examples, layer by layer."""

import numpy as np
import torch
from numpy.typing import NDArray

from fedloom.backbones.base import Packing
from fedloom.core.errors import ConfigError
from fedloom.tuning.base import CohortModel
from fedloom.tuning.batches import Batches, real_tokens
from fedloom.tuning.examples import Examples
from fedloom.tuning.fused_model import FusedModel

__all__ = ["layer_scores", "spectral_score"]

EPSILON = 1e-5


def layer_scores(
    model: CohortModel, examples: Examples, rows: NDArray[np.int64]
) -> NDArray[np.float64]:
    """`spectral_score` of one batch's hidden states after each layer, float64 ``[layers]``.

    As FedPepTAO has it (Che et al., EMNLP 2023, section 3.2): of the frozen model, without prompts;
    each example's states laid end to end, and zeros where it is shorter than the longest.

    Args:
        model: on the fused engine.
        examples: the data.
        rows: int64, the examples of the batch.

    Raises:
        ConfigError: the model's blocks cannot be run one by one.
    """
    if not isinstance(model, FusedModel):
        raise ConfigError("layer scores: this model has no fused blocks; backbone.engine = 'fused'")
    batches, found = Batches(model, examples), []
    with torch.no_grad():
        packing = batches.packing([rows])
        hidden = batches.embed([rows], packing)
        for layer in range(model.depth):
            hidden = model.backbone.run(hidden, packing, first=layer, last=layer + 1)
            found.append(spectral_score(_flat(hidden, packing, batches.lengths[rows])))
    return np.array(found)


def spectral_score(vectors: NDArray[np.float64]) -> float:
    """``sum_i [log(e_i + eps) + 1 / (e_i + eps)]``, e_i the eigenvalues of the cosine similarities.

    The more alike the vectors, the larger. It is the negative of the score of Mellor et al.,
    "Neural Architecture Search without Training", ICML 2021.

    Args:
        vectors: float64 ``[n, d]``, not zero.
    """
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    values = np.linalg.eigvalsh(unit @ unit.T).clip(min=0.0) + EPSILON
    return float((np.log(values) + 1 / values).sum())


def _flat(
    hidden: torch.Tensor, packing: Packing, lengths: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Each example's hidden states in one row, float64 ``[n, longest * width]``."""
    width = hidden.shape[-1]
    tokens = hidden.reshape(-1, width)[real_tokens(packing)].double().cpu().numpy()
    flat = np.zeros((len(lengths), int(lengths.max()) * width))
    ends = np.cumsum(lengths)
    for row, end, length in zip(flat, ends, lengths, strict=True):
        row[: length * width] = tokens[end - length : end].reshape(-1)
    return flat
