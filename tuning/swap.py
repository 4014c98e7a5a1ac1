"""Any `transformers` model, trained for k clients at once by swapping modules.

Each module that something is attached to is wrapped: the frozen module runs once over all clients'
rows, and the attachments add what belongs to each. The wrapped model is used by one thread at a
time; what is attached at the moment is handed over in a `Slot`.
"""

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fedloom.backbones.base import Sites
from fedloom.tuning.attach import attach
from fedloom.tuning.base import Rows
from fedloom.tuning.examples import Examples, ImageExamples, TextExamples
from fedloom.tuning.store import Store

__all__ = ["Adapted", "Slot", "padded_inputs", "swap"]


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

    def __init__(self, inner: nn.Module, name: str, slot: Slot) -> None:
        super().__init__()
        self.inner = inner
        self._name, self._slot = name, slot

    def forward(self, x: Tensor) -> Tensor:
        """The frozen module's output, changed by what is attached."""
        site = self._slot.sites.get(self._name)
        store = self._slot.store
        if site is None or store is None:
            return torch.as_tensor(self.inner(x))
        k = store.clients
        packed = x.reshape(k, -1, x.shape[-1])
        if site.before is not None:
            packed = attach(packed, packed, site.before, store.anchor)
        y: Tensor = self.inner(packed)
        if site.after is not None:
            y = attach(packed, y, site.after, store.anchor)
        return y.reshape(*x.shape[:-1], y.shape[-1])

    def __getattr__(self, name: str) -> Any:
        """Pass attributes such as ``weight`` through: some models look at their layers' dtypes."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self._modules["inner"], name)


def swap(model: nn.Module, names: Sequence[str]) -> Slot:
    """Wrap the named modules of a model in place; returns the slot that they read."""
    slot = Slot()
    for name in dict.fromkeys(names):
        parent_name, _, leaf = name.rpartition(".")
        parent = model.get_submodule(parent_name)
        setattr(parent, leaf, Adapted(model.get_submodule(name), name, slot))
    return slot


def padded_inputs(examples: Examples, rows: Rows, *, device: torch.device) -> dict[str, Tensor]:
    """A cohort's batch as a `transformers` model takes it: ``[k * b, T]``, client by client.

    Clients with fewer than b examples repeat one; the caller leaves those slots out of the loss.
    """
    widest = max(len(r) for r in rows)
    filled = [np.concatenate((r, np.repeat(r[:1], widest - len(r)))) for r in rows]
    flat = np.concatenate(filled)
    if isinstance(examples, ImageExamples):
        pixels = torch.from_numpy(examples.floats(flat)).to(device)
        return {"pixel_values": pixels}
    if not isinstance(examples, TextExamples):
        raise TypeError(f"examples of {type(examples).__name__}: neither text nor images")
    pieces = [examples.ids(int(i)) for i in flat]
    length = max(len(piece) for piece in pieces)
    ids = np.zeros((len(pieces), length), dtype=np.int64)
    mask = np.zeros((len(pieces), length), dtype=np.int64)
    for i, piece in enumerate(pieces):
        ids[i, : len(piece)] = piece
        mask[i, : len(piece)] = 1
    inputs = {"input_ids": ids, "attention_mask": mask}
    return {k: torch.from_numpy(v).to(device) for k, v in inputs.items()}
