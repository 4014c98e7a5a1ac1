"""Tensors of a far side that move together, and the sessions that move them."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from fedloom.backbones.base import Packing
from fedloom.backbones.lengths import as_one
from fedloom.core.layout import Selector
from fedloom.core.types import LocalWork, Params
from fedloom.tuning.base import Part
from fedloom.tuning.composition import Composition
from fedloom.tuning.fused_model import FusedModel
from fedloom.tuning.optimizers import copy_state, optimizer_for
from fedloom.tuning.store import Store

__all__ = ["Lane", "Lanes", "Sitting"]


class Lane:
    """Rows of a store that step together: one session's own, or the one row of all.

    Attributes:
        store: the rows.
        optimizer: what moves them.
        version: steps that they have taken.
    """

    def __init__(self, store: Store, work: LocalWork) -> None:
        self.store, self.optimizer = store, optimizer_for(work, store)
        self.version = 0

    def state(self) -> dict[str, Tensor]:
        """All that steps have changed, by name; not copies."""
        state = {f"optimizer.{name}": t for name, t in self.optimizer.state().items()}
        version = torch.tensor([self.version])
        return {"values": self.store.values, "version": version, **state}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Go on where another lane of the same kind stood.

        Raises:
            LayoutError: it was of another kind or size.
        """
        start = "optimizer."
        rest = {n: t for n, t in state.items() if not n.startswith(start)}
        version = torch.tensor([self.version])
        copy_state({"values": self.store.values, "version": version}, rest)
        self.optimizer.load(
            {n.removeprefix(start): t for n, t in state.items() if n.startswith(start)}
        )
        self.version = int(version)
        self.store.stepped()

    def seen(self, packing: Packing) -> Packing:
        """A packing as the rows see it: where all share a row, all are one client."""
        return as_one(packing) if len(self.store.values) == 1 else packing


@dataclass(frozen=True)
class Lanes:
    """Makes lanes.

    Attributes:
        side: the far side of the model.
        params: its tensors.
        train: which of them train.
        parts: the parts that matter.
        work: the optimizer.
    """

    side: FusedModel
    params: Params
    train: Selector
    parts: tuple[Part, ...]
    work: LocalWork

    def make(self, clients: int) -> Lane:
        """Fresh rows for k clients."""
        backbone = self.side.backbone
        store = Store(
            self.params,
            self.train,
            clients=clients,
            device=backbone.device,
            dtype=backbone.dtype,
        )
        store.sites = Composition.sites(self.parts, store)
        return Lane(store, self.work)


@dataclass
class Sitting:
    """A session of k clients that is going on.

    Attributes:
        lane: what it moves.
        clients: k.
        done: its last step whose gradient was passed back.
    """

    lane: Lane
    clients: int
    done: int = 0
