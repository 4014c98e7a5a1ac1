"""Any `transformers` model, trained for k clients at once by swapping modules.

Each module that something is attached to is wrapped: the frozen module runs once over all clients'
rows, and the attachments add what belongs to each. What is attached at the moment is handed over
in a `Slot`, which every thread has its own of.
"""

import threading
from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fedloom.backbones.base import Sites
from fedloom.tuning.attach import attach
from fedloom.tuning.store import Store

__all__ = ["Adapted", "Slot", "swap"]


class Slot(threading.local):
    """What is attached right now, in this thread.

    Attributes:
        sites: by module path.
        store: the rows of the cohort.
    """

    def __init__(self) -> None:
        self.sites: Sites = {}
        self.store: Store | None = None


class Adapted(nn.Module):
    """A frozen module with room for per-client attachments.

    Its input is ``[k * b, ..., d_in]``, client by client.
    """

    def __init__(self, inner: nn.Module, name: str, slot: Slot, *, head: bool) -> None:
        super().__init__()
        self.inner = inner
        self._name, self._slot, self._head = name, slot, head

    def forward(self, x: Tensor) -> Tensor:
        """The frozen module's output, changed by what is attached."""
        site = self._slot.sites.get(self._name)
        store = self._slot.store
        if site is None or store is None:
            return torch.as_tensor(self.inner(x))
        k = store.clients
        packed = x.reshape(k, -1, x.shape[-1])
        # What asks for no gradient leaves no graph: below the head only where the trunk has one.
        anchor = store.anchor if self._head or store.trunk else store.anchor.detach()
        if site.before is not None:
            packed = attach(packed, packed, site.before, anchor)
        y: Tensor = self.inner(packed)
        if site.after is not None:
            y = attach(packed, y, site.after, anchor)
        return y.reshape(*x.shape[:-1], y.shape[-1])

    def __getattr__(self, name: str) -> Any:
        """Pass attributes such as ``weight`` through: some models look at their layers' dtypes."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self._modules["inner"], name)


def swap(model: nn.Module, names: Sequence[str], heads: Collection[str] = ()) -> Slot:
    """Wrap the named modules of a model in place; returns the slot that they read.

    Args:
        model: what they are modules of.
        names: of the modules, by path.
        heads: those which are the head's.
    """
    slot = Slot()
    for name in dict.fromkeys(names):
        parent_name, _, leaf = name.rpartition(".")
        parent = model.get_submodule(parent_name)
        setattr(parent, leaf, Adapted(model.get_submodule(name), name, slot, head=name in heads))
    return slot
