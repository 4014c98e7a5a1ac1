"""The first hidden states of texts, in numpy: rows are looked up in tables that stay as stored."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedloom.backbones.families import FAMILIES
from fedloom.backbones.onnx.weights import Codes, Floats, Weights
from fedloom.backbones.shape import Shape
from fedloom.core.errors import DataError, ModelError

__all__ = ["TextEmbedding", "text_embedding"]


@dataclass(frozen=True, eq=False)
class TextEmbedding:
    """Tokens and positions added, then layer norm, as in BERT.

    Attributes:
        tokens: ``[vocab, d]``.
        positions: ``[longest, d]``, with the vector of the first segment.
        weight: of the norm, ``[d]``.
        bias: of the norm, ``[d]``.
        eps: of the norm.
    """

    tokens: Floats | Codes
    positions: Floats
    weight: Floats
    bias: Floats
    eps: float

    def run(self, ids: NDArray[np.int64]) -> Floats:
        """Embed ``[n, t]``; return ``[n, t, d]``.

        Raises:
            DataError: the texts are longer than the model reads.
        """
        longest = len(self.positions)
        if ids.shape[1] > longest:
            raise DataError(f"embed: {ids.shape[1]} tokens; this backbone reads at most {longest}")
        flat = ids.reshape(-1)
        rows = self.tokens.rows(flat) if isinstance(self.tokens, Codes) else self.tokens[flat]
        x = rows.reshape(*ids.shape, -1) + self.positions[: ids.shape[1]]
        x -= x.mean(-1, keepdims=True)
        x /= np.sqrt(np.square(x).mean(-1, keepdims=True) + np.float32(self.eps))
        return np.asarray(x * self.weight + self.bias, dtype=np.float32)


def text_embedding(shape: Shape, weights: Weights) -> TextEmbedding:
    """Read the embeddings of a BERT.

    Raises:
        ModelError: a tensor is missing or does not fit the shape.
    """
    family, d = FAMILIES[shape.family], shape.width

    def names(part: str, field: str) -> tuple[str, ...]:
        return family.stored(family.outer[part], field)

    types = weights.find(names("types", "weight"))
    if types is None or types.ndim != 2 or types.shape[1] != d:
        raise ModelError(f"tensor {family.outer['types']!r}: expected [types, {d}]")
    positions = weights.get(names("positions", "weight"), (shape.max_positions, d))
    return TextEmbedding(
        tokens=weights.matrix(names("tokens", "weight"), (shape.vocab, d)),
        positions=positions + types[0],
        weight=weights.get(names("norm", "weight"), (d,)),
        bias=weights.get(names("norm", "bias"), (d,)),
        eps=shape.eps,
    )
