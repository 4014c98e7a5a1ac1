"""Optimizers whose state is a row per client; every operation is on ``[k, P]`` matrices.

SGD and AdamW follow `torch.optim` to the letter, so that a cohort trained at once equals its
clients trained one by one with torch's optimizers.
"""

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor

from fedloom.core.errors import LayoutError
from fedloom.core.types import LocalWork
from fedloom.tuning.store import Store

__all__ = ["AdamW", "Optimizer", "Sgd", "copy_state", "optimizer_for"]


class Optimizer(Protocol):
    """Moves the active rows of a store."""

    def step(self) -> None:
        """One step along ``store.grad``, which is then zeroed."""
        ...

    def state(self) -> dict[str, Tensor]:
        """What it remembers between steps, by name; not copies."""
        ...

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Remember what another one of the same kind and size did.

        Raises:
            LayoutError: it was of another kind or size.
        """
        ...


def optimizer_for(work: LocalWork, store: Store) -> Optimizer:
    """The optimizer that a task asks for, fresh."""
    return Sgd(work, store) if work.optimizer == "sgd" else AdamW(work, store)


def _rates(work: LocalWork, store: Store) -> float | Tensor:
    """Learning rate: a number, or float32 ``[P]`` where the head has its own."""
    heads = [spec for spec in store.trained if "head" in spec.tags]
    if not work.head_lr or not heads:
        return work.lr
    rates = torch.full_like(store.values[0], work.lr)
    for spec in heads:
        rates[store.trained.span(spec.name)] = work.head_lr
    return rates


def _prepare(work: LocalWork, store: Store) -> Tensor:
    """The active gradients ``[k, P]``, pulled, with the proximal term, and clipped row by row.

    A pull and the proximal term are of the objective (Li et al., MLSys 2020, eq. 2), so they are
    clipped with the rest. The latter holds a client near where it started: the global model, and
    what the client keeps for itself.
    """
    k = store.clients
    grad = store.grad[:k]
    if store.pull is not None:
        grad.add_(store.pull[:k])
    if work.prox_mu:
        start = store.start if store.start.ndim == 1 else store.start[:k]
        grad.add_(store.values[:k] - start, alpha=work.prox_mu)
    if work.clip_norm:
        norms = grad.norm(dim=1, keepdim=True)
        grad.mul_((work.clip_norm / (norms + 1e-6)).clamp(max=1.0))
    return grad


class Sgd:
    """SGD with heavy-ball momentum and L2 decay (`torch.optim.SGD`, no dampening)."""

    def __init__(self, work: LocalWork, store: Store) -> None:
        self._work, self._store = work, store
        self._rates = _rates(work, store)
        self._momentum = torch.zeros_like(store.values) if work.momentum else None

    def step(self) -> None:
        """One step of the active rows."""
        work, store, k = self._work, self._store, self._store.clients
        update = _prepare(work, store)
        values = store.values[:k]
        if work.weight_decay:
            update.add_(values, alpha=work.weight_decay)
        if self._momentum is not None:
            # torch starts the buffer at the first gradient; from zeros it is the same.
            update = self._momentum[:k].mul_(work.momentum).add_(update)
        if isinstance(self._rates, Tensor):
            values.addcmul_(update, self._rates, value=-1.0)
        else:
            values.add_(update, alpha=-self._rates)
        store.stepped()

    def state(self) -> dict[str, Tensor]:
        """The momentum, if there is any."""
        return {} if self._momentum is None else {"momentum": self._momentum}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """See `Optimizer.load`."""
        copy_state(self.state(), state)


class AdamW:
    """AdamW (Loshchilov and Hutter, ICLR 2019, Algorithm 2; `torch.optim.AdamW`).

    Active rows have all taken the same number of steps, since clients only ever drop out; so one
    step count serves them all.
    """

    def __init__(self, work: LocalWork, store: Store) -> None:
        self._work, self._store = work, store
        self._rates = _rates(work, store)
        self._m = torch.zeros_like(store.values)
        self._v = torch.zeros_like(store.values)
        self._steps = 0

    def step(self) -> None:
        """One step of the active rows."""
        work, store, k = self._work, self._store, self._store.clients
        grad = _prepare(work, store)
        values, m, v = store.values[:k], self._m[:k], self._v[:k]
        beta1, beta2 = work.betas
        self._steps += 1
        if work.weight_decay:
            values.mul_(1 - self._rates * work.weight_decay)
        m.lerp_(grad, 1 - beta1)
        v.mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
        first = 1 - beta1**self._steps
        second = 1 - beta2**self._steps
        scale = (v.sqrt() / second**0.5).add_(work.eps)
        if isinstance(self._rates, Tensor):
            values.addcdiv_(m * self._rates, scale, value=-1 / first)
        else:
            values.addcdiv_(m, scale, value=-self._rates / first)
        store.stepped()

    def state(self) -> dict[str, Tensor]:
        """Both moments, and the steps taken."""
        return {"m": self._m, "v": self._v, "steps": torch.tensor([self._steps])}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """See `Optimizer.load`."""
        own = self.state()
        copy_state(own, state)
        self._steps = int(own["steps"])


def copy_state(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> None:
    """Copy tensors into those of the same name.

    Raises:
        LayoutError: names or shapes differ.
    """
    shapes, found = ({n: list(t.shape) for n, t in each.items()} for each in (own, state))
    if shapes != found:
        raise LayoutError(f"state of {found}; expected {shapes}")
    for name, tensor in own.items():
        tensor.copy_(state[name])
