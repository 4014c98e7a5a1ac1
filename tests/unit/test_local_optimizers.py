"""Optimizers of a cohort against `torch.optim`, row by row."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from fedloom.core.layout import Layout, TensorSpec
from fedloom.core.types import LocalWork, Params
from fedloom.tuning.optimizers import AdamW, Sgd, optimizer_for
from fedloom.tuning.store import Store

LAYOUT = Layout(
    (
        TensorSpec("a", (3, 4), tags=frozenset({"lora"})),
        TensorSpec("head", (2, 5), tags=frozenset({"head"})),
        TensorSpec("b", (6,), tags=frozenset({"lora"})),
    )
)
HEAD = LAYOUT.span("head")
STEPS = (5, 4, 2)  # of the three clients; the longest first, as the trainer sorts them

WORKS = [
    LocalWork(optimizer="sgd", lr=0.1),
    LocalWork(optimizer="sgd", lr=0.1, momentum=0.9),
    LocalWork(optimizer="sgd", lr=0.1, momentum=0.9, weight_decay=0.05),
    LocalWork(optimizer="sgd", lr=0.1, clip_norm=0.5, weight_decay=0.05),
    LocalWork(optimizer="sgd", lr=0.1, momentum=0.5, head_lr=0.3),
    LocalWork(optimizer="adamw", lr=0.01),
    LocalWork(optimizer="adamw", lr=0.01, weight_decay=0.1, betas=(0.8, 0.95), eps=1e-4),
    LocalWork(optimizer="adamw", lr=0.01, clip_norm=0.5, head_lr=0.05, weight_decay=0.1),
]


def gradients() -> Tensor:
    """``[steps, clients, P]``; some rows are shorter than the clipping norm and some longer."""
    drawn = torch.randn(max(STEPS), len(STEPS), LAYOUT.size, generator=generator(1))
    return drawn * torch.tensor([1.0, 0.05, 3.0]).view(1, 3, 1)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def start() -> Params:
    return Params(LAYOUT, torch.randn(LAYOUT.size, generator=generator(2)).numpy())


def active(store: Store) -> Iterator[int]:
    """Step numbers; clients that are done drop out of the store."""
    for step in range(max(STEPS)):
        store.activate(sum(steps > step for steps in STEPS))
        yield step


def alone(work: LocalWork, grads: Tensor) -> Tensor:
    """One client with torch's own optimizer and clipping, from gradients ``[steps, P]``."""
    vector = torch.from_numpy(start().vector)
    pieces = [vector[: HEAD.start], vector[HEAD], vector[HEAD.stop :]]
    leaves = [torch.nn.Parameter(piece.clone()) for piece in pieces]
    groups = [
        {"params": [leaves[0], leaves[2]], "lr": work.lr},
        {"params": [leaves[1]], "lr": work.head_lr or work.lr},
    ]
    optimizer: torch.optim.Optimizer
    if work.optimizer == "sgd":
        optimizer = torch.optim.SGD(groups, momentum=work.momentum, weight_decay=work.weight_decay)
    else:
        optimizer = torch.optim.AdamW(
            groups, betas=work.betas, eps=work.eps, weight_decay=work.weight_decay
        )
    for grad in grads:
        for leaf, piece in zip(leaves, (slice(0, 12), HEAD, slice(22, 28)), strict=True):
            leaf.grad = grad[piece].clone()
        if work.clip_norm:
            torch.nn.utils.clip_grad_norm_(leaves, work.clip_norm)
        optimizer.step()
    return torch.cat([leaf.detach() for leaf in leaves])


@pytest.mark.parametrize("work", WORKS, ids=str)
def test_rows_at_once_equal_torch_one_by_one(work: LocalWork) -> None:
    store = Store(start(), ("*",), clients=len(STEPS))
    optimizer = optimizer_for(work, store)
    assert isinstance(optimizer, Sgd if work.optimizer == "sgd" else AdamW)
    for step in active(store):
        store.grad[: store.clients] = gradients()[step, : store.clients]
        optimizer.step()
        assert store.grad[: store.clients].abs().sum() == 0
    for row, steps in enumerate(STEPS):
        want = alone(work, gradients()[:steps, row])
        torch.testing.assert_close(store.values[row], want, rtol=2e-6, atol=2e-7)


def test_the_proximal_term_pulls_back_to_the_start() -> None:
    # w0 = 1. Step 1: g = 2, term 0: w = 1 - 0.5 * 2 = 0.
    # Step 2: g = 2, term 0.5 * (0 - 1) = -0.5: w = 0 - 0.5 * 1.5 = -0.75.
    work = LocalWork(lr=0.5, prox_mu=0.5)
    layout = Layout((TensorSpec("w", (1,)),))
    store = Store(Params(layout, np.ones(1, dtype=np.float32)), ("*",), clients=1)
    optimizer = optimizer_for(work, store)
    for want in (0.0, -0.75):
        store.grad.fill_(2)
        optimizer.step()
        assert store.values.tolist() == [[want]]


def test_the_proximal_term_is_clipped_with_the_gradient() -> None:
    # Moved by 3 and 4 from the start with mu = 1 and no gradient: the term has norm 5, is clipped
    # to 1 (up to the 1e-6 in torch's clipping) and takes [0.6, 0.8] away.
    layout = Layout((TensorSpec("w", (2,)),))
    store = Store(Params(layout, np.zeros(2, dtype=np.float32)), ("*",), clients=1)
    store.values[0] = torch.tensor([3.0, 4.0])
    optimizer_for(LocalWork(lr=1.0, prox_mu=1.0, clip_norm=1.0), store).step()
    assert store.values[0].tolist() == pytest.approx([2.4, 3.2], rel=1e-6)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_a_row_that_is_not_finite_leaves_the_others_alone(name: str) -> None:
    work = LocalWork(optimizer=name, momentum=0.9, clip_norm=1.0, weight_decay=0.1, prox_mu=0.1)
    found = []
    for value in (1.0, float("nan"), float("inf")):
        store = Store(start(), ("*",), clients=3)
        optimizer = optimizer_for(work, store)
        for grad in gradients()[:2]:
            store.grad[:] = grad
            store.grad[1, 3] = value
            optimizer.step()
        found.append(store.values)
    for other in found[1:]:
        assert not other[1].isfinite().all()
        assert torch.equal(other[[0, 2]], found[0][[0, 2]])
