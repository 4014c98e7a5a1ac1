"""Batches of a cohort through a fused backbone: embed or recall, run, read, compare."""

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from fedloom.backbones.base import Packing, Sites
from fedloom.backbones.packing import pack, pack_images
from fedloom.core.layout import Selector
from fedloom.core.types import Params
from fedloom.tuning.attach import attach
from fedloom.tuning.base import Losses, Rows
from fedloom.tuning.composition import Composition
from fedloom.tuning.examples import Examples, ImageExamples, TextExamples
from fedloom.tuning.losses import class_losses, client_losses
from fedloom.tuning.recall import FewActivations, Recall
from fedloom.tuning.store import Store
from fedloom.tuning.targets import next_tokens, packed_starts

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
        self._lengths = model.token_counts(examples)
        self._grids: dict[tuple[int, int, int], Packing] = {}

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
        once = FewActivations(rows, self.frozen_activations, self._kept_lengths)
        model, params = self._model, self._params
        return FusedSession(model, params, self._train, self._examples, once)

    def _kept_lengths(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """How many lines a cache keeps of each example."""
        whole = self._cut == self._model.depth and self._model.task.kind != "causal-lm"
        return np.ones(len(rows), dtype=np.int64) if whole else self._lengths[rows]

    def flops(self, tokens: int) -> float:
        """Frozen products of one step, from the shapes; activations in a cache cost nothing."""
        return self._model.backbone.flops_per_token(self._cut) * tokens

    def losses(self, store: Store, rows: Rows) -> Losses:
        """One batch of the active clients."""
        if self._model.task.kind == "causal-lm":
            return self._language(store, rows)
        with store.trunk_grad():
            pooled = self._pooled(store, rows)
        head = store.sites[self._model.head_name].after
        assert head is not None
        blank = pooled.new_zeros(*pooled.shape[:2], self._model.task.classes)
        logits = attach(pooled, blank, head, store.anchor).flatten(0, 1)
        labels = self._examples.labels
        assert labels is not None
        return class_losses(logits, labels, rows)

    def _language(self, store: Store, rows: Rows) -> Losses:
        backbone = self._model.backbone
        assert isinstance(self._examples, TextExamples)
        packing = self._packing(rows)
        hidden = self._hidden(store, rows, packing)
        starts = packed_starts(self._lengths, rows, packing.length)
        places = next_tokens(self._examples, rows, starts)
        index, target, owner = (
            torch.from_numpy(a).to(backbone.device)
            for a in (places.index, places.target, places.owner)
        )
        logits = backbone.token_logits(hidden.flatten(0, 1)[index])
        return client_losses(logits, target, owner, len(rows))

    def _packing(self, rows: Rows) -> Packing:
        model, examples = self._model, self._examples
        lengths = self._lengths[_filled(rows)]
        same = bool((lengths == lengths[0]).all())
        if isinstance(examples, ImageExamples):
            return self._regular(rows, int(lengths[0]))
        assert isinstance(examples, TextExamples)
        if same and len({len(r) for r in rows}) == 1:
            packing = self._regular(rows, int(lengths[0]))
            starts = examples.offsets[np.concatenate(rows)]
            ids = examples.tokens[starts[:, None] + np.arange(lengths[0])].astype(np.int64)
            own = torch.from_numpy(ids).view(packing.positions.shape)
            return replace(packing, ids=own.to(model.backbone.device))
        pieces = [[examples.ids(int(i)) for i in own] for own in rows]
        return pack(pieces, read=model.read).to(model.backbone.device)

    def _regular(self, rows: Rows, tokens: int) -> Packing:
        """Clients with equally many examples of one length, without ids; made once per shape."""
        key = len(rows), max(len(r) for r in rows), tokens
        if key not in self._grids:
            packing = pack_images(*key, read=self._model.read)
            self._grids[key] = packing.to(self._model.backbone.device)
        return self._grids[key]

    def _embed(self, rows: Rows, packing: Packing) -> Tensor:
        backbone, examples = self._model.backbone, self._examples
        if not isinstance(examples, ImageExamples):
            return backbone.embed(packing)
        pixels = torch.from_numpy(examples.floats(_filled(rows))).to(backbone.device)
        return backbone.embed_images(pixels.view(len(rows), -1, *pixels.shape[1:]), packing)

    def _hidden(self, store: Store, rows: Rows, packing: Packing) -> Tensor:
        """Hidden states after the last block, ``[k, L, d]`` (``[k, b, d]`` where trimmed)."""
        backbone, depth = self._model.backbone, self._model.depth
        trim = packing.read is not None
        sites = self._relative(store.sites)
        if self._cache is None:
            start = self._embed(rows, packing)
            return backbone.run(start, packing, last=depth, sites=sites, trim=trim)
        # Images of clients with fewer than the others are repeated; texts are not.
        images = isinstance(self._examples, ImageExamples)
        asked = _filled(rows) if images else np.concatenate(rows)
        kept = self._cache.gather(asked).to(backbone.device)
        start = kept.new_zeros(packing.clients * packing.length, kept.shape[-1])
        start[_real_tokens(packing)] = kept
        start = start.view(packing.clients, packing.length, -1)
        return backbone.run(start, packing, first=self._cut, last=depth, sites=sites, trim=trim)

    def _relative(self, sites: Sites) -> Sites:
        base = self._model.base
        return {name.removeprefix(base): site for name, site in sites.items()}

    def _pooled(self, store: Store, rows: Rows) -> Tensor:
        """What the head reads, float32 ``[k, b, d]``; empty slots hold anything."""
        if self._cache is not None and self._cut == self._model.depth:
            kept = self._cache.gather(_filled(rows)).to(self._model.backbone.device)
            return kept.float().view(len(rows), -1, kept.shape[-1])
        packing = self._packing(rows)
        return self._read(self._hidden(store, rows, packing), packing)

    def _read(self, hidden: Tensor, packing: Packing) -> Tensor:
        backbone, model = self._model.backbone, self._model
        if model.read is None:
            out = backbone.finish(hidden, packing, "mean").float()
            if model.task.normalize:
                out = functional.normalize(out, dim=-1) * out.shape[-1] ** 0.5
            return out
        out = backbone.finish(hidden, packing, model.read, trimmed=True)
        return (out if backbone.pooler is None else backbone.pool_first(out)).float()

    def frozen_activations(self, rows: NDArray[np.int64]) -> Tensor:
        """What a cache keeps of examples: hidden states at the cut, or what the head reads.

        Returns:
            ``[tokens, d]``, or ``[n, d]`` where nothing inside the blocks changes.
        """
        backbone, own = self._model.backbone, [rows]
        with torch.no_grad():
            packing = self._packing(own)
            whole = self._cut == self._model.depth
            trim = whole and packing.read is not None
            hidden = backbone.run(self._embed(own, packing), packing, last=self._cut, trim=trim)
            return self._read(hidden, packing)[0] if whole else hidden[0]


def _real_tokens(packing: Packing) -> Tensor:
    """Which of the ``k * L`` places hold a token, client by client."""
    slots = sum(grid.index.numel() for grid in packing.grids)
    return (packing.back < slots).nonzero().flatten()


def _filled(rows: Rows) -> NDArray[np.int64]:
    """The batch's ``k * b`` slots; clients with fewer examples repeat their first."""
    widest = max(len(r) for r in rows)
    if all(len(r) == widest for r in rows):
        return np.concatenate(rows)
    return np.concatenate([np.concatenate((r, np.repeat(r[:1], widest - len(r)))) for r in rows])
