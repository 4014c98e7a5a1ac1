"""The first hidden states of texts, in numpy: rows are looked up in tables that stay as stored."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedloom.backbones.families import FAMILIES
from fedloom.backbones.onnx.matrices import Floats, Matrix
from fedloom.backbones.onnx.weights import Weights
from fedloom.backbones.shape import Shape
from fedloom.core.errors import DataError, ModelError

__all__ = ["TextEmbedding", "text_embedding"]


@dataclass(frozen=True, eq=False)
class TextEmbedding:
    """Tokens, with positions added and layer norm where a family has them.

    Attributes:
        tokens: ``[vocab, d]``.
        positions: ``[longest, d]``, with the vector of the first segment; None for none.
        norm: weight and bias, ``[d]`` each; None for none.
        eps: of the norm.
        longest: text, in tokens.
    """

    tokens: Matrix
    positions: Floats | None
    norm: tuple[Floats, Floats] | None
    eps: float
    longest: int

    def run(self, ids: NDArray[np.int64]) -> Floats:
        """Embed ``[n, t]``; return ``[n, t, d]``.

        Raises:
            DataError: the texts are longer than the model reads.
        """
        if ids.shape[1] > self.longest:
            text = f"this backbone reads at most {self.longest}"
            raise DataError(f"embed: {ids.shape[1]} tokens; {text}")
        x = self.tokens.rows(ids.reshape(-1)).reshape(*ids.shape, -1)
        if self.positions is not None:
            x = x + self.positions[: ids.shape[1]]
        if self.norm is None:
            return x
        weight, bias = self.norm
        x -= x.mean(-1, keepdims=True)
        x /= np.sqrt(np.square(x).mean(-1, keepdims=True) + np.float32(self.eps))
        return np.asarray(x * weight + bias, dtype=np.float32)


def text_embedding(shape: Shape, weights: Weights) -> TextEmbedding:
    """Read the embeddings of a backbone.

    Raises:
        ModelError: a tensor is missing or does not fit the shape.
    """
    family, d = FAMILIES[shape.family], shape.width

    def names(part: str, field: str) -> tuple[str, ...]:
        return family.stored(family.outer[part], field)

    norm = None
    if "norm" in family.outer:
        weight, bias = (weights.get(names("norm", field), (d,)) for field in ("weight", "bias"))
        norm = weight, bias
    return TextEmbedding(
        tokens=weights.matrix(names("tokens", "weight"), (shape.vocab, d)),
        positions=_positions(shape, weights),
        norm=norm,
        eps=shape.eps,
        longest=shape.max_positions,
    )


def _positions(shape: Shape, weights: Weights) -> Floats | None:
    family, size = FAMILIES[shape.family], (shape.max_positions, shape.width)
    if "positions" not in family.outer:
        return None
    positions = weights.get(family.stored(family.outer["positions"], "weight"), size)
    if "types" not in family.outer:
        return positions
    types = weights.find(family.stored(family.outer["types"], "weight"))
    if types is None or types.ndim != 2 or types.shape[1] != shape.width:
        raise ModelError(f"tensor {family.outer['types']!r}: expected [types, {shape.width}]")
    return np.asarray(positions + types[0], dtype=np.float32)
