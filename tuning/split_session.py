"""A client's session with a hole: its own blocks around blocks that run far away.

Learners work over it as over any session. What trains is what the client holds.
"""

from collections.abc import Sequence
from itertools import count
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd import Function

from fedloom.backbones.base import Packing
from fedloom.core.errors import SplitError
from fedloom.core.layout import Selector
from fedloom.core.types import Params
from fedloom.tuning.base import Losses, Rows
from fedloom.tuning.batches import Batches
from fedloom.tuning.composition import Composition
from fedloom.tuning.cut import Cut, own_train
from fedloom.tuning.examples import Examples
from fedloom.tuning.far import Far, remote_loss, remote_span
from fedloom.tuning.fused_model import FusedModel
from fedloom.tuning.needs import WORKING, logit_bytes, weights_at
from fedloom.tuning.readout import losses_at, places_of
from fedloom.tuning.store import Store

__all__ = ["SplitSession"]


class SplitSession:
    """One side of a `FusedModel`, over a far side that has the rest.

    Args:
        model: the whole model.
        params: its tensors, those at home at least.
        train: what trains of the whole model; those at home of it train here.
        examples: the data.
        cut: what is far away.
        fars: one far side for all clients of a batch, which step together; or one for each client
            in the order of the rows, who then step one after the other.

    Raises:
        SplitError: the model cannot be cut so.
    """

    def __init__(
        self,
        model: FusedModel,
        params: Params,
        train: Selector,
        examples: Examples,
        *,
        cut: Cut,
        fars: Sequence[Far],
    ) -> None:
        side = self._side = model.holding(cut.home(model.depth))
        self._cut, self._fars, self._examples = cut, fars, examples
        self._train = own_train(model.layout, train, side.layout)
        self._parts = side.active(params.only(side.layout), self._train)
        self._batches = Batches(model, examples)
        self._steps = count(1)

    def store(self, params: Params, clients: int) -> Store:
        """Rows for k clients."""
        backbone = self._side.backbone
        store = Store(
            params.only(self._side.layout),
            self._train,
            clients=clients,
            device=backbone.device,
            dtype=backbone.dtype,
        )
        store.sites = Composition.sites(self._parts, store)
        return store

    def tokens(self, rows: NDArray[np.int64]) -> int:
        """Tokens in the examples `rows`."""
        return int(self._batches.lengths[rows].sum())

    def over(self, rows: NDArray[np.int64]) -> "SplitSession":
        """The same: nothing is kept of a few examples."""
        return self

    def flops(self, tokens: int) -> float:
        """Frozen products of one step at home, from the shapes."""
        depth = self._side.depth
        share = 1 - (self._cut.last - self._cut.first) / depth
        return self._side.backbone.flops_per_token(0) * share * tokens

    def memory(self, tokens: int, *, backward: bool) -> int:
        """What is at home, and activations of the blocks there."""
        side, home = self._side, self._cut.home(self._side.depth)
        blocks = side.depth - (self._cut.last - self._cut.first)
        kept = (blocks if backward else 0) + WORKING if blocks else 0
        longest = int(self._batches.lengths.max(initial=0))
        taken = side.backbone.saved_bytes_per_token(longest) * kept * tokens
        words = logit_bytes(side, tokens) if "head" in home else 0
        return weights_at(side, home) + taken + words

    def losses(self, store: Store, rows: Rows) -> Losses:
        """One batch of the active clients.

        Raises:
            SplitError: the far side refused.
        """
        if len(self._fars) == 1:
            return self._losses(store, rows, self._fars[0])
        if not torch.is_grad_enabled():
            return self._losses(store, rows, self._fars[0])
        return self._in_turn(store, rows)

    def _in_turn(self, store: Store, rows: Rows) -> Losses:
        """Each client goes through all of its legs before the next one begins."""
        found = []
        for i, own in enumerate(rows):
            row = store.row(i)
            row.sites = Composition.sites(self._parts, row)
            one = self._losses(row, [own], self._fars[i])
            one.loss.sum().backward()
            found.append(one)
        loss, correct, many, each, predicted, target = (
            torch.cat([getattr(one, name).detach() for one in found])
            for name in ("loss", "correct", "count", "each", "predicted", "target")
        )
        settled: Tensor = _Settled.apply(store.anchor, loss)  # type: ignore[no-untyped-call]
        return Losses(settled, correct, many, each, predicted, target)

    def _losses(self, store: Store, rows: Rows, far: Far) -> Losses:
        packing, step = self._batches.packing(rows), next(self._steps)
        places = places_of(self._side, self._examples, self._batches.lengths, rows, packing)
        with store.trunk_grad():
            below = self._below(store, rows, packing)
            if self._cut.labels == "far":
                loss, said = remote_loss(far, step, below, packing, places)
                target = torch.from_numpy(places.target).to(loss.device)
                return Losses(loss, said.correct, said.count, said.each, said.predicted, target)
            between = remote_span(far, step, below, packing)
            hidden = self._above(store, between, packing)
        return losses_at(self._side, store, hidden, packing, places)

    def _below(self, store: Store, rows: Rows, packing: Packing) -> Tensor:
        side = self._side
        first = self._batches.embed(rows, packing)
        sites = side.relative(store.sites)
        return side.backbone.run(first, packing, last=self._cut.first, sites=sites)

    def _above(self, store: Store, hidden: Tensor, packing: Packing) -> Tensor:
        """After the last block; what came from there is trimmed already where it is to be."""
        side, cut = self._side, self._cut
        if cut.last == side.depth:
            return hidden
        sites, trim = side.relative(store.sites), packing.read is not None
        return side.backbone.run(hidden, packing, first=cut.last, sites=sites, trim=trim)


class _Settled(Function):
    """Losses whose gradient has been found and stepped along already."""

    @staticmethod
    def forward(ctx: Any, anchor: Tensor, loss: Tensor) -> Tensor:
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, weights: Tensor) -> tuple[None, None]:
        if not bool((weights == 1).all()):
            text = "the clients have gone down their plain losses already"
            raise SplitError(f"losses: {text}; differentiate loss.sum()", code="weights")
        return None, None
