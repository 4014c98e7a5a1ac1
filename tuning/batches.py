"""Batches of examples as a fused backbone takes them: packed, and embedded."""

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedloom.backbones.base import Packing
from fedloom.backbones.packing import Read, pack, pack_images
from fedloom.tuning.base import Rows
from fedloom.tuning.examples import Examples, ImageExamples, TextExamples

if TYPE_CHECKING:
    from fedloom.tuning.fused_model import FusedModel

__all__ = ["Batches", "filled", "real_tokens"]


class Batches:
    """Batches of some examples for one model.

    Attributes:
        lengths: int64 ``[N]``: tokens that each example takes in the blocks.

    Args:
        model: the model.
        examples: the data.
        multiple: of which tokens of a text batch are, with padding; see `pack`.
    """

    def __init__(self, model: "FusedModel", examples: Examples, *, multiple: int = 1) -> None:
        self._model, self._examples, self._multiple = model, examples, multiple
        self.lengths = model.token_counts(examples)
        self._grids: dict[tuple[int, int, int], Packing] = {}

    def packing(self, rows: Rows) -> Packing:
        """Where the tokens of a batch lie."""
        model, examples = self._model, self._examples
        lengths = self.lengths[filled(rows)]
        same = bool((lengths == lengths[0]).all()) and lengths[0] % self._multiple == 0
        read = model.read
        if isinstance(examples, ImageExamples):
            assert not isinstance(read, int)
            return self._regular(rows, int(lengths[0]), read)
        assert isinstance(examples, TextExamples)
        # Where the token of an id is, each example says itself.
        if same and not isinstance(read, int) and len({len(r) for r in rows}) == 1:
            packing = self._regular(rows, int(lengths[0]), read)
            starts = examples.offsets[np.concatenate(rows)]
            ids = examples.tokens[starts[:, None] + np.arange(lengths[0])].astype(np.int64)
            own = torch.from_numpy(ids).view(packing.positions.shape)
            return replace(packing, ids=own.to(model.backbone.device))
        pieces = [[examples.ids(int(i)) for i in own] for own in rows]
        return pack(pieces, read=read, multiple=self._multiple).to(model.backbone.device)

    def _regular(self, rows: Rows, tokens: int, read: Read) -> Packing:
        """Clients with equally many examples of one length, without ids; made once per shape."""
        key = len(rows), max(len(r) for r in rows), tokens
        if key not in self._grids:
            packing = pack_images(*key, read=read)
            self._grids[key] = packing.to(self._model.backbone.device)
        return self._grids[key]

    def embed(self, rows: Rows, packing: Packing) -> Tensor:
        """The first hidden states of a batch, ``[k, L, d]``."""
        backbone, examples = self._model.backbone, self._examples
        if not isinstance(examples, ImageExamples):
            return backbone.embed(packing)
        pixels = torch.from_numpy(examples.floats(filled(rows))).to(backbone.device)
        return backbone.embed_images(pixels.view(len(rows), -1, *pixels.shape[1:]), packing)


def real_tokens(packing: Packing) -> Tensor:
    """Which of the ``k * L`` places hold a token, client by client."""
    slots = sum(grid.index.numel() for grid in packing.grids)
    return (packing.back < slots).nonzero().flatten()


def filled(rows: Rows) -> NDArray[np.int64]:
    """The batch's ``k * b`` slots; clients with fewer examples repeat their first."""
    widest = max(len(r) for r in rows)
    if all(len(r) == widest for r in rows):
        return np.concatenate(rows)
    return np.concatenate([np.concatenate((r, np.repeat(r[:1], widest - len(r)))) for r in rows])
