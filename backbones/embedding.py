"""From token ids or pixels to the first hidden states."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from fedloom.backbones.assemble import Source
from fedloom.backbones.base import Packing
from fedloom.backbones.norm import Norm
from fedloom.backbones.product import affine
from fedloom.backbones.schemes import Packed
from fedloom.backbones.shape import Shape
from fedloom.core.errors import DataError, ModelError

__all__ = ["Embedding", "ImageEmbedding", "load_embedding"]


@dataclass(frozen=True)
class Embedding:
    """Token embeddings, plus positions and a norm where the family has them.

    Attributes:
        tokens: ``[vocab, d]``, as a tensor or in fewer bits.
        positions: ``[max_positions, d]`` with the embedding of token type 0 added to each, or None.
        norm: applied to the sum, or None.
        longest: the longest example allowed.
        dtype: of hidden states.
    """

    tokens: Tensor | Packed
    positions: Tensor | None
    norm: Norm | None
    longest: int
    dtype: torch.dtype

    def run(self, packing: Packing) -> Tensor:
        """Embed the packed ids; return ``[k, L, d]``.

        Raises:
            DataError: the packing holds images, or an example longer than the model allows.
        """
        if packing.ids is None:
            raise DataError("embed: the packing has no token ids; this backbone reads text")
        longest = max(grid.index.shape[1] for grid in packing.grids)
        if longest > self.longest:
            raise DataError(f"embed: {longest} tokens; this backbone reads at most {self.longest}")
        hidden = self._looked_up(packing.ids)
        if self.positions is not None:
            hidden = hidden.add_(functional.embedding(packing.positions, self.positions))
        return hidden if self.norm is None else self.norm.apply(hidden)[0]

    def table(self) -> Tensor:
        """The embedding of every token, ``[vocab, d]``."""
        return self.tokens if isinstance(self.tokens, Tensor) else self.tokens.whole(self.dtype)

    def _looked_up(self, ids: Tensor) -> Tensor:
        if isinstance(self.tokens, Tensor):
            return functional.embedding(ids, self.tokens)
        return self.tokens[ids.flatten()].whole(self.dtype).view(*ids.shape, -1)


@dataclass(frozen=True)
class ImageEmbedding:
    """Patches by one product, a CLS token and positions (https://arxiv.org/abs/2010.11929).

    Attributes:
        weight: ``[d, channels * patch height * patch width]``.
        bias: ``[d]``.
        first: the CLS token, ``[d]``.
        positions: ``[1 + patches, d]``.
        shape: of the backbone.
    """

    weight: Tensor
    bias: Tensor
    first: Tensor
    positions: Tensor
    shape: Shape

    def run(self, pixels: Tensor) -> Tensor:
        """Embed ``[k, b, channels, height, width]``; return ``[k, b * (1 + patches), d]``.

        Raises:
            DataError: the images are of another size than the model reads.
        """
        k, b = pixels.shape[:2]
        expected = (self.shape.channels, *self.shape.image)
        if pixels.shape[2:] != expected:
            have = tuple(pixels.shape[2:])
            raise DataError(f"embed: images of {have}; this backbone reads {expected}")
        images = pixels.flatten(0, 1).to(self.weight.dtype)
        patches = functional.unfold(images, self.shape.patch, stride=self.shape.patch).transpose(
            1, 2
        )
        hidden = self.positions.repeat(k * b, 1, 1)
        hidden[:, 0] += self.first
        flat = affine(patches.flatten(0, 1).contiguous(), self.weight, self.bias)
        hidden[:, 1:] += flat.view(k * b, -1, flat.shape[1])
        return hidden.view(k, -1, hidden.shape[-1])


def load_embedding(source: Source) -> Embedding | ImageEmbedding:
    """Read the embeddings of a backbone.

    Raises:
        ModelError: the checkpoint lacks one of the tensors or holds it in another shape.
    """
    shape, d = source.shape, source.shape.width
    if shape.channels:
        size = (d, shape.channels, *shape.patch)
        return ImageEmbedding(
            weight=source.outer("patches", "weight", size).flatten(1),
            bias=source.outer("patches", "bias", (d,)),
            first=source.outer("first", "", (1, 1, d)).view(d),
            positions=source.outer("positions", "", (1, 1 + shape.patches, d))[0],
            shape=shape,
        )
    tokens = source.table("tokens", (shape.vocab, d))
    beside = _positions(source), source.outer_norm("norm")
    return Embedding(tokens, *beside, shape.max_positions, source.dtype)


def _positions(source: Source) -> Tensor | None:
    shape, outer = source.shape, source.family.outer
    if "positions" not in outer:
        return None
    positions = source.outer("positions", "weight", (shape.max_positions, shape.width))
    if "types" not in outer or source.hollow:
        return positions
    types = source.checkpoint.get(source.family.stored(outer["types"], "weight"))
    if types.ndim != 2 or types.shape[1] != shape.width:
        raise ModelError(f"tensor {outer['types']!r}: expected [types, {shape.width}]")
    return positions + types[0].to(positions.dtype)
