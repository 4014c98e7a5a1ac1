"""Modules trained themselves: each client's weights and biases beside the frozen ones.

The parameter is the weight itself; what is computed is its change, ``x (W - W_0)^T`` beside the
frozen ``x W_0^T``. So W_0 may be stored in fewer bits than what trains, and what is small beside
W_0 is not rounded away. Where nothing has changed nothing is computed. The change is made anew for
the backward pass: keeping it would take as much memory again as the clients' weights.
"""

import torch
from torch import Tensor

from fedloom.backbones.base import AddToInput, Saved
from fedloom.tuning.base import Frozen
from fedloom.tuning.store import Store

__all__ = ["DenseChange", "NormChange"]


class _Change:
    """One tensor of all clients minus the frozen one, float32.

    Args:
        store: holds the tensor, ``[k, *shape]``.
        name: of it.
        frozen: ``[*shape]``.
    """

    def __init__(self, store: Store, name: str, frozen: Tensor) -> None:
        self._store, self._name, self._frozen = store, name, frozen
        self._shared: tuple[Tensor | None] | None = None

    @property
    def grad(self) -> Tensor | None:
        """Where its gradient is added; None if it is fixed."""
        return self._store.grad_view(self._name)

    def get(self) -> Tensor | None:
        """The change, float32 ``[k, *shape]``; None where it is known to be zero."""
        value = self._store.view(self._name, dtype=torch.float32)
        frozen = self._frozen.detach().to(torch.float32)
        if self.grad is not None:
            change = value - frozen
            # Training moves every tensor; a model that is only looked at may have moved few.
            return change if torch.is_grad_enabled() or change.any() else None
        if self._shared is None:  # the same for all clients and steps
            change = value[0] - frozen
            self._shared = (change if change.any() else None,)
        (shared,) = self._shared
        return None if shared is None else shared.expand(len(value), *shared.shape)


def _of(store: Store, name: str | None, frozen: Tensor | None) -> _Change | None:
    return None if name is None or frozen is None else _Change(store, name, frozen)


def _shift(y: Tensor, change: _Change | None) -> None:
    """Add the change of a bias ``[k, d]`` to ``[k, L, d]`` in place."""
    found = None if change is None else change.get()
    if found is not None:
        y.add_(found.to(y.dtype).unsqueeze(1))


def _shift_gradient(dy: Tensor, change: _Change | None) -> None:
    grad = None if change is None else change.grad
    if grad is not None:
        grad.add_(dy.sum(1, dtype=torch.float32))


class DenseChange:
    """A linear map trained in full: ``y + x (W - W_0)^T + b - b_0``.

    Args:
        store: holds W as it is stored, and b.
        weight: name of W; None where it stays frozen.
        bias: name of b; None where it stays frozen, or there is none.
        frozen: W_0 and b_0.
    """

    def __init__(
        self, store: Store, *, weight: str | None, bias: str | None, frozen: Frozen
    ) -> None:
        self._weight = _of(store, weight, frozen.weight)
        self._bias = _of(store, bias, frozen.bias)
        self._transposed = frozen.transposed

    def _map(self, dtype: torch.dtype) -> Tensor | None:
        """The change as it is multiplied by, ``[k, d_in, d_out]``."""
        change = None if self._weight is None else self._weight.get()
        if change is None:
            return None
        return (change if self._transposed else change.mT).to(dtype)

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Saved]:
        """Add the product with the change to `y` in place."""
        change = self._map(x.dtype)
        if change is not None:
            y.baddbmm_(x, change)
        _shift(y, self._bias)
        trains = self._weight is not None and self._weight.grad is not None
        return y, (x,) if trains else ()

    def backward(self, saved: Saved, dy: Tensor) -> tuple[Tensor, AddToInput | None]:
        """``dW = dy^T x``, ``db = sum_L dy``; ``dx += dy (W - W_0)``."""
        _shift_gradient(dy, self._bias)
        if self._weight is None:
            return dy, None
        grad = self._weight.grad
        if grad is not None:
            (x,) = saved
            left, right = (x.mT, dy) if self._transposed else (dy.mT, x)
            if grad.dtype == x.dtype:
                grad.baddbmm_(left, right)
            else:
                grad.add_(torch.bmm(left, right))

        def add(dx: Tensor) -> Tensor:
            change = self._map(dy.dtype)
            return dx if change is None else dx.baddbmm_(dy, change.mT)

        return dy, add


class NormChange:
    """A normalisation trained in full: ``y + n(x) (w - w_0) + b - b_0``.

    ``n`` is the norm without weight and bias, in float32: of layer norm
    (https://arxiv.org/abs/1607.06450) or RMS norm (https://arxiv.org/abs/1910.07467).

    Args:
        store: holds w ``[k, d]`` and, where there is one, b ``[k, d]``.
        weight: name of w.
        bias: name of b, or None.
        frozen: w_0, b_0, and what kind of norm it is.
    """

    def __init__(self, store: Store, *, weight: str, bias: str | None, frozen: Frozen) -> None:
        self._weight = _Change(store, weight, frozen.weight)
        self._bias = _of(store, bias, frozen.bias)
        self._eps, self._centred = frozen.eps or 0.0, frozen.centred

    def _normal(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """``n(x)`` and what x was multiplied by."""
        wide = x.float()
        if self._centred:
            wide = wide - wide.mean(-1, keepdim=True)
        scale = wide.square().mean(-1, keepdim=True).add(self._eps).rsqrt()
        return wide * scale, scale

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Saved]:
        """Add the change to `y` in place."""
        _shift(y, self._bias)
        change = self._weight.get()
        if change is None and self._weight.grad is None:
            return y, ()
        normal, scale = self._normal(x)
        if change is not None:
            y.add_((normal * change.unsqueeze(1)).to(y.dtype))
        return y, (normal, scale)

    def backward(self, saved: Saved, dy: Tensor) -> tuple[Tensor, AddToInput | None]:
        """``dw = sum_L dy n(x)``, ``db = sum_L dy``, and the gradient through ``n``.

        With ``g = dy (w - w_0)`` and s what x was multiplied by, RMS norm has
        ``dx = s (g - n mean(g n))``; layer norm takes ``mean(g)`` away, too.
        """
        _shift_gradient(dy, self._bias)
        if not saved:
            return dy, None
        (normal, scale), wide = saved, dy.float()
        if self._weight.grad is not None:
            self._weight.grad.add_((wide * normal).sum(1))

        def add(dx: Tensor) -> Tensor:
            change = self._weight.get()
            if change is None:
                return dx
            g = wide * change.unsqueeze(1)
            inner = g - normal * (g * normal).mean(-1, keepdim=True)
            if self._centred:
                inner -= g.mean(-1, keepdim=True)
            return dx.add_((scale * inner).to(dx.dtype))

        return dy, add
