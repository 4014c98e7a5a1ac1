"""Batches of a cohort through a fused backbone: embed or recall, run, read, compare."""

import math
from collections.abc import Sequence
from copy import copy
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedloom.backbones.base import Packing, Sites
from fedloom.core.errors import ConfigError
from fedloom.core.layout import Selector
from fedloom.core.types import Params
from fedloom.tuning.base import Losses, Rows
from fedloom.tuning.batches import Batches, filled, real_tokens
from fedloom.tuning.composition import Composition
from fedloom.tuning.examples import Examples, ImageExamples
from fedloom.tuning.losses import class_losses, filled_slots
from fedloom.tuning.needs import (
    SHAPES,
    WORKING,
    answer_share,
    attached_inputs,
    logit_bytes,
    weights_at,
)
from fedloom.tuning.readout import class_logits, losses_at, places_of, pooled
from fedloom.tuning.recall import FewActivations, Recall
from fedloom.tuning.store import Store

if TYPE_CHECKING:
    from fedloom.tuning.fused_model import FusedModel

__all__ = ["FusedSession"]


class FusedSession:
    """One way of working with a `FusedModel`: some tensors train, on some examples.

    Args:
        model: the model.
        params: the global model; tensors that do not train keep these values.
        train: what trains.
        examples: the data.
        cache: activations below the cut for these examples, if they are kept.
    """

    def __init__(
        self,
        model: "FusedModel",
        params: Params,
        train: Selector,
        examples: Examples,
        cache: Recall | None = None,
    ) -> None:
        self._params = params
        self._model, self._examples, self._train, self._cache = model, examples, train, cache
        self._parts = model.active(params, train)
        self._cut = model.cut(self._parts)
        self._trained = params.layout.select(train)
        self._order: tuple[int, ...] = tuple(range(model.depth))
        self._recompute, self._most = False, 0
        self._batches = Batches(model, examples)
        self._lengths = self._batches.lengths

    def store(self, params: Params, clients: int) -> Store:
        """Rows for k clients."""
        backbone = self._model.backbone
        store = Store(
            params, self._train, clients=clients, device=backbone.device, dtype=backbone.dtype
        )
        store.sites = Composition.sites(self._parts, store)
        return store

    def tokens(self, rows: NDArray[np.int64]) -> int:
        """Tokens in the examples `rows`."""
        return int(self._lengths[rows].sum())

    def over(self, rows: NDArray[np.int64]) -> "FusedSession":
        """The same for a few examples that are run many times: below the cut they run once, now.

        Args:
            rows: int64, the examples that will be asked for.
        """
        if self._cache is not None or not self._cut:
            return self
        compute, lengths = self.frozen_activations, self._kept_lengths
        one = copy(self)
        one._cache = FewActivations(rows, compute, lengths, most=self._most)
        return one

    def frugal(self, *, recompute: bool, examples: int = 0) -> "FusedSession":
        """The same in less memory; texts are padded, so that few shapes are multiplied.

        Args:
            recompute: keep only the inputs of blocks for a backward pass (gradient checkpointing).
            examples: that `over` computes at once (0: all).
        """
        one = copy(self)
        one._recompute, one._most = recompute, examples
        one._batches = Batches(self._model, self._examples, multiple=SHAPES)
        return one

    def picked(self, blocks: Sequence[int]) -> "FusedSession":
        """The same, through some blocks of the backbone only, in an order of their own.

        Args:
            blocks: indices of the blocks, from 0; some may be taken twice.

        Raises:
            ConfigError: the backbone has no such block.
        """
        depth = self._model.depth
        bad = [i for i in blocks if not 0 <= i < depth]
        if bad:
            raise ConfigError(f"blocks: {bad[0]}: the backbone has layers 0 to {depth - 1}")
        one = copy(self)
        # What is kept of examples came through all blocks.
        one._cache, one._cut, one._order = None, 0, tuple(blocks)
        return one

    def _kept_lengths(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """How many lines a cache keeps of each example."""
        whole = self._cut == self._model.depth and self._model.task.kind != "causal-lm"
        return np.ones(len(rows), dtype=np.int64) if whole else self._lengths[rows]

    def flops(self, tokens: int) -> float:
        """Products of one step, from the shapes; activations in a cache cost nothing.

        Those of the frozen weights, and of weights that train in full beside them: the change and
        both gradients.
        """
        frozen = self._model.backbone.flops_per_token(self._floor, len(self._order))
        full = sum(s.size for s in self._trained if "full" in s.tags and len(s.shape) == 2)
        return (frozen + 6.0 * full) * tokens

    @property
    def _floor(self) -> int:
        """Where in the order the first block comes that a gradient is wanted in."""
        blocks = {spec.block for spec in self._trained}
        places = (p for p, i in enumerate(self._order) if f"layer.{i}" in blocks)
        return next(places, len(self._order))

    def memory(self, tokens: int, *, backward: bool) -> int:
        """All weights, and activations of the blocks from the lowest that trains.

        Of blocks that run again on the way back, inputs, and the activations of one.
        """
        model, blocks = self._model, len(self._order) - self._floor if backward else 0
        kept = min(blocks, 1) if self._recompute else blocks
        taken = model.backbone.saved_bytes_per_token(self._longest) * (WORKING + kept)
        taken += attached_inputs(model, self._parts) * kept
        if self._recompute:
            taken += blocks * model.backbone.shape.width * model.backbone.dtype.itemsize
        words = logit_bytes(model, math.ceil(self._answers * tokens))
        return self._weights + tokens * taken + words

    @cached_property
    def _weights(self) -> int:
        return weights_at(self._model, (*self._model.backbone.blocks, "head"))

    @cached_property
    def _answers(self) -> float:
        return answer_share(self._examples)

    @cached_property
    def _longest(self) -> int:
        return int(self._lengths.max(initial=0))

    def losses(self, store: Store, rows: Rows) -> Losses:
        """One batch of the active clients."""
        if self._model.task.kind == "causal-lm":
            return self._language(store, rows)
        return class_losses(self._logits(store, rows), self.labels, rows)

    @property
    def labels(self) -> NDArray[np.int64]:
        """int64 ``[N]``, the class of each example; -1 where it has no label."""
        labels = self._examples.labels
        assert labels is not None
        return labels

    @property
    def classes(self) -> int:
        """How many classes there are, C."""
        return self._model.task.classes

    def logits(self, store: Store, rows: Rows) -> Tensor:
        """What the active clients' models say of a batch, ``[n, C]``, client by client."""
        return filled_slots(self._logits(store, rows), rows)

    def _logits(self, store: Store, rows: Rows) -> Tensor:
        with store.trunk_grad():
            read = self._pooled(store, rows)
        return class_logits(self._model, store, read)

    def features(self, rows: NDArray[np.int64]) -> Tensor:
        """Examples as the frozen backbone sees them: ``[n, d]``, float32, means over tokens."""
        backbone = self._model.backbone
        with torch.no_grad():
            packing = replace(self._batches.packing([rows]), read=None)
            hidden = backbone.run(self._batches.embed([rows], packing), packing)
            return backbone.finish(hidden, packing, "mean").float()[0]

    def _language(self, store: Store, rows: Rows) -> Losses:
        packing = self._batches.packing(rows)
        hidden = self._hidden(store, rows, packing)
        places = places_of(self._model, self._examples, self._lengths, rows, packing)
        return losses_at(self._model, store, hidden, packing, places)

    def _hidden(self, store: Store, rows: Rows, packing: Packing) -> Tensor:
        """Hidden states after the last block, ``[k, L, d]`` (``[k, b, d]`` where trimmed)."""
        sites = self._model.relative(store.sites)
        if self._cache is None:
            return self._run(self._batches.embed(rows, packing), packing, 0, sites)
        # Images of clients with fewer than the others are repeated; texts are not.
        images = isinstance(self._examples, ImageExamples)
        asked = filled(rows) if images else np.concatenate(rows)
        kept = self._cache.gather(asked).to(self._model.backbone.device)
        start = kept.new_zeros(packing.clients * packing.length, kept.shape[-1])
        start[real_tokens(packing)] = kept
        start = start.view(packing.clients, packing.length, -1)
        return self._run(start, packing, self._cut, sites)

    def _run(self, hidden: Tensor, packing: Packing, first: int, sites: Sites) -> Tensor:
        """The blocks from the place `first` on; those below all that trains without gradient."""
        run, trim = self._model.backbone.run, packing.read is not None
        floor = max(first, self._floor)
        below, above = self._order[first:floor], self._order[floor:]
        if below:
            with torch.no_grad():
                hidden = run(hidden, packing, order=below, sites=sites, trim=trim and not above)
        if not above:
            return hidden
        return run(hidden, packing, order=above, sites=sites, trim=trim, recompute=self._recompute)

    def _pooled(self, store: Store, rows: Rows) -> Tensor:
        """What the head reads, float32 ``[k, b, d]``; empty slots hold anything."""
        if self._cache is not None and self._cut == self._model.depth:
            kept = self._cache.gather(filled(rows)).to(self._model.backbone.device)
            return kept.float().view(len(rows), -1, kept.shape[-1])
        packing = self._batches.packing(rows)
        return pooled(self._model, self._hidden(store, rows, packing), packing)

    def frozen_activations(self, rows: NDArray[np.int64]) -> Tensor:
        """What a cache keeps of examples: hidden states at the cut, or what the head reads.

        Returns:
            ``[tokens, d]``, or ``[n, d]`` where nothing inside the blocks changes.
        """
        backbone, own = self._model.backbone, [rows]
        with torch.no_grad():
            packing = self._batches.packing(own)
            whole = self._cut == self._model.depth
            trim = whole and packing.read is not None
            hidden = backbone.run(
                self._batches.embed(own, packing), packing, last=self._cut, trim=trim
            )
            return pooled(self._model, hidden, packing)[0] if whole else hidden[0]
