"""The trainable state of a cohort: one row per client.

Everything that is done to a client's parameters (steps, clipping, deltas, aggregation) is an
operation on a ``[k, P]`` matrix; a name is a view of it. A deployed client is the case k = 1.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from copy import copy

import torch
from torch import Tensor

from fedloom.backbones.base import Sites
from fedloom.core.layout import Layout, Selector
from fedloom.core.types import Params

__all__ = ["Store"]


class Store:
    """Values and gradients of k clients, with a named view for each tensor.

    Attributes:
        trained: layout of the tensors that train, P elements.
        values: float32 ``[k, P]``.
        grad: float32 ``[k, P]``; backward passes add to it.
        start: float32 ``[P]``: the global values that every client started from; ``[k, P]`` where
            clients have tensors of their own.
        pull: float32 ``[k, P]``, added to the gradients of every step; None for nothing.
        sites: what is attached where, over these rows; set by the session that made the store.
        anchor: a scalar that requires grad, for autograd operations that own no tensor.
        trunk: whether gradients go below the head; without, all but the head runs as in
            inference, and only the head's gradient is found.

    Args:
        params: the global model.
        train: which of its tensors train; the others are the same for all clients.
        clients: k.
        device: where the rows live.
        dtype: what `view` casts to, for the products with activations.
    """

    def __init__(
        self,
        params: Params,
        train: Selector,
        *,
        clients: int,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        layout = params.layout
        self.trained: Layout = layout.select(train)
        whole = torch.from_numpy(params.vector).to(device)
        picked = torch.from_numpy(layout.gather(params.vector, self.trained)).to(device)
        self.start: Tensor = picked
        self.values: Tensor = picked.expand(clients, -1).clone()
        self.grad: Tensor = torch.zeros_like(self.values)
        self.anchor: Tensor = torch.zeros((), device=device, requires_grad=True)
        self.pull: Tensor | None = None
        self.sites: Sites = {}
        self.trunk = True
        self._active = clients
        self._dtype = dtype
        self._places = {s.name: (self.trained.span(s.name), s.shape) for s in self.trained}
        self._fixed = {
            s.name: whole[layout.span(s.name)].reshape(s.shape)
            for s in layout
            if s.name not in self.trained
        }
        self._cast: Tensor | None = None

    @property
    def clients(self) -> int:
        """Clients that take part in the current step: the first rows."""
        return self._active

    @property
    def dtype(self) -> torch.dtype:
        """What tensors are cast to for products."""
        return self._dtype

    def activate(self, clients: int) -> None:
        """Let only the first rows take part from now on; the others stop moving."""
        if clients != self._active:
            self._active = clients
            self._cast = None

    def begin(self, own: Sequence[Params | None]) -> None:
        """Let clients start from values of their own.

        Args:
            own: of each row, its own values of some of the trained tensors; None for none.

        Raises:
            LayoutError: one of the tensors does not train.
        """
        _fill(self.values, self.trained, own)
        if any(found is not None for found in own):
            self.start = self.values.clone()

    def lean(self, pulls: Sequence[Params | None]) -> None:
        """Add to every gradient of a row what pulls it.

        Args:
            pulls: of each row; None for nothing. Those of tensors that do not train do nothing.
        """
        if all(found is None for found in pulls):
            return
        self.pull = torch.zeros_like(self.values)
        names = {name for found in pulls if found is not None for name in found.layout.names}
        here = Layout(tuple(spec for spec in self.trained if spec.name in names))
        _fill(self.pull, self.trained, [found and found.only(here) for found in pulls])

    def row(self, client: int) -> "Store":
        """One client alone, over the same memory; its sites have to be made anew."""
        one = copy(self)
        one.values = self.values[client : client + 1]
        one.grad = self.grad[client : client + 1]
        if self.pull is not None:
            one.pull = self.pull[client : client + 1]
        if self.start.ndim == 2:
            one.start = self.start[client : client + 1]
        one.sites, one._active, one._cast = {}, 1, None
        return one

    def view(self, name: str, *, dtype: torch.dtype | None = None) -> Tensor:
        """The tensor `name` of every active client, ``[k, *shape]``, for products.

        A tensor that does not train is the same for all and has stride 0 in its first axis.
        """
        want = dtype or self._dtype
        if name in self._fixed:
            fixed = self._fixed[name]
            if fixed.dtype != want:
                fixed = fixed.to(want)
                if dtype is None:
                    self._fixed[name] = fixed
            return fixed.expand(self._active, *fixed.shape)
        span, shape = self._places[name]
        rows = self._rows(want)
        return rows[:, span].view(rows.shape[0], *shape)

    def _rows(self, dtype: torch.dtype) -> Tensor:
        rows = self.values[: self._active]
        if dtype == torch.float32:
            return rows
        if self._cast is None:
            self._cast = rows.to(dtype)
        return self._cast

    def grad_view(self, name: str) -> Tensor | None:
        """Where the gradient of `name` is added, float32 ``[k, *shape]``; None if it is fixed."""
        if name not in self._places:
            return None
        span, shape = self._places[name]
        return self.grad[: self._active, span].view(self._active, *shape)

    def trunk_grad(self) -> AbstractContextManager[object]:
        """What everything below the head runs under."""
        return nullcontext() if self.trunk else torch.no_grad()

    def stepped(self) -> None:
        """Forget casts and gradients: the optimizer has moved the values."""
        self._cast = None
        self.grad[: self._active].zero_()

    def deltas(self) -> Tensor:
        """Local minus where each client started, float32 ``[k, P]``, all clients."""
        return self.values - self.start


def _fill(rows: Tensor, layout: Layout, own: Sequence[Params | None]) -> None:
    """Write what is given of a row, ``[k, P]``, over it."""
    for row, found in zip(rows, own, strict=True):
        if found is not None:
            values = torch.from_numpy(found.vector).to(row.device)
            for here, there in layout.spans(found.layout):
                row[here] = values[there]
