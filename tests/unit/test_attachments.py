"""The gradient of each attachment, written by hand, against autograd."""

from collections.abc import Callable, Mapping

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from fedloom.backbones.base import Attachment
from fedloom.core.layout import Layout, Selector, TensorSpec
from fedloom.core.types import Params
from fedloom.tuning.attach import attach
from fedloom.tuning.attachments import (
    BiasChange,
    BottleneckBranch,
    Chain,
    LowRank,
    Replacement,
    Scaling,
)
from fedloom.tuning.store import Store

K, LENGTH, D_IN, D_OUT, RANK = 3, 5, 6, 4, 2
SHAPES = {
    "A": (RANK, D_IN),
    "B": (D_OUT, RANK),
    "l": (D_OUT, 1),
    "bias": (D_OUT,),
    "n.down.weight": (RANK, D_OUT),
    "n.down.bias": (RANK,),
    "n.up.weight": (D_OUT, RANK),
    "n.up.bias": (D_OUT,),
    "W": (D_OUT, D_IN),
    "b": (D_OUT,),
}
LAYOUT = Layout(tuple(TensorSpec(name, shape) for name, shape in SHAPES.items()))
FROZEN = torch.linspace(-1, 1, D_OUT)

Leaves = Mapping[str, Tensor]
Formula = Callable[[Leaves, Tensor, Tensor], Tensor]
Make = Callable[[Store], Attachment]


def lora(t: Leaves, x: Tensor, y: Tensor) -> Tensor:
    return y + 0.7 * torch.einsum("kld,krd,kor->klo", x, t["A"], t["B"])


def scaling(t: Leaves, x: Tensor, y: Tensor) -> Tensor:
    return y * t["l"][:, None, :, 0]


def bias(t: Leaves, x: Tensor, y: Tensor) -> Tensor:
    return y + (t["bias"] - FROZEN)[:, None]


def bottleneck(t: Leaves, x: Tensor, y: Tensor) -> Tensor:
    down = torch.einsum("klo,kro->klr", y, t["n.down.weight"]) + t["n.down.bias"][:, None]
    up = torch.einsum("klr,kor->klo", functional.relu(down), t["n.up.weight"])
    return y + up + t["n.up.bias"][:, None]


def replaced(t: Leaves, x: Tensor, y: Tensor) -> Tensor:
    return torch.einsum("kld,kod->klo", x, t["W"]) + t["b"][:, None] + 0 * y


def several(t: Leaves, x: Tensor, y: Tensor) -> Tensor:
    return bottleneck(t, x, scaling(t, x, lora(t, x, y)))


def make_lora(store: Store) -> Attachment:
    return LowRank(store, a="A", b="B", scaling=0.7)


def make_scaling(store: Store) -> Attachment:
    return Scaling(store, factor="l")


def make_bottleneck(store: Store) -> Attachment:
    return BottleneckBranch(store, names=("n",))


def make_chain(store: Store) -> Attachment:
    return Chain([make_lora(store), make_scaling(store), make_bottleneck(store)])


CASES: dict[str, tuple[Make, Formula, tuple[str, ...]]] = {
    "lora": (make_lora, lora, ("A", "B")),
    "ia3": (make_scaling, scaling, ("l",)),
    "bias": (lambda store: BiasChange(store, bias="bias", frozen=FROZEN), bias, ("bias",)),
    "bottleneck": (make_bottleneck, bottleneck, tuple(n for n in SHAPES if n.startswith("n."))),
    "head": (lambda store: Replacement(store, weight="W", bias="b"), replaced, ("W", "b")),
    "chain": (make_chain, several, ("A", "B", "l", *(n for n in SHAPES if n.startswith("n.")))),
}


def drawn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def store_of(train: Selector = ("*",)) -> Store:
    """Clients with different values; the fixed tensors are the same for all."""
    store = Store(Params(LAYOUT, drawn(LAYOUT.size, seed=1).numpy()), train, clients=K)
    store.values.add_(0.5 * drawn(*store.values.shape, seed=2))
    return store


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    shapes = ((K, LENGTH, D_IN), (K, LENGTH, D_OUT), (K, LENGTH, D_OUT))
    x, y, dy = (drawn(*shape, seed=3 + i) for i, shape in enumerate(shapes))
    return x, y, dy


def close(got: Tensor, want: Tensor) -> None:
    torch.testing.assert_close(got, want, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("name", CASES)
def test_forward_and_gradients_equal_autograd(name: str) -> None:
    make, formula, names = CASES[name]
    store = store_of()
    x, y, dy = inputs()
    leaves = {n: store.view(n).clone().requires_grad_() for n in SHAPES}
    x_leaf, y_leaf = x.clone().requires_grad_(), y.clone().requires_grad_()
    want = formula(leaves, x_leaf, y_leaf)
    want.backward(dy)

    attachment = make(store)
    own = y.clone()
    out, saved = attachment.forward(x, own)
    close(out, want.detach())
    if out is not own:
        own.fill_(float("nan"))  # the memory of y is used again
    d_frozen, add = attachment.backward(saved, dy.clone())

    assert y_leaf.grad is not None
    close(d_frozen, y_leaf.grad)
    d_input = torch.ones_like(x) if add is None else add(torch.ones_like(x))
    close(d_input, 1 + (torch.zeros_like(x) if x_leaf.grad is None else x_leaf.grad))
    for n in SHAPES:
        found, expected = store.grad_view(n), leaves[n].grad
        assert found is not None
        if n in names:
            assert expected is not None
            close(found, expected)
        else:
            assert not found.any()


@pytest.mark.parametrize("name", CASES)
def test_gradients_add_up_over_backward_passes(name: str) -> None:
    make, _, _ = CASES[name]
    store = store_of()
    x, y, dy = inputs()
    sums = []
    for _ in range(2):
        attachment = make(store)
        _, saved = attachment.forward(x, y.clone())
        attachment.backward(saved, dy.clone())
        sums.append(store.grad.clone())
    close(sums[1], 2 * sums[0])


@pytest.mark.parametrize(
    ("name", "fixed"),
    [("lora", "A"), ("lora", "B"), ("bottleneck", "n.up.bias"), ("head", "b"), ("ia3", "l")],
)
def test_fixed_tensors_get_no_gradient_and_do_not_change_the_others(name: str, fixed: str) -> None:
    make, formula, names = CASES[name]
    store = store_of(("*", f"!{fixed}"))
    x, y, dy = inputs()
    leaves = {n: store.view(n).clone().requires_grad_(n != fixed) for n in SHAPES}
    y_leaf = y.clone().requires_grad_()
    formula(leaves, x, y_leaf).backward(dy)
    attachment = make(store)
    _, saved = attachment.forward(x, y.clone())
    d_frozen, _ = attachment.backward(saved, dy.clone())
    assert store.grad_view(fixed) is None
    assert y_leaf.grad is not None
    close(d_frozen, y_leaf.grad)
    for n in set(names) - {fixed}:
        found, expected = store.grad_view(n), leaves[n].grad
        assert found is not None
        assert expected is not None
        close(found, expected)


def test_a_head_without_bias() -> None:
    store = store_of()
    x, y, dy = inputs()
    attachment = Replacement(store, weight="W", bias=None)
    out, saved = attachment.forward(x, y.clone())
    close(out, torch.einsum("kld,kod->klo", x, store.view("W")))
    attachment.backward(saved, dy.clone())
    untouched = store.grad_view("b")
    assert untouched is not None
    assert not untouched.any()


def test_only_active_clients_take_part() -> None:
    store = store_of()
    store.activate(2)
    x, y, dy = (t[:2] for t in inputs())
    attachment = make_lora(store)
    out, saved = attachment.forward(x, y.clone())
    attachment.backward(saved, dy.clone())
    assert out.shape == (2, LENGTH, D_OUT)
    assert store.grad[:2].any()
    assert not store.grad[2].any()


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("needs", [(True, True), (True, False), (False, True), (False, False)])
def test_as_an_autograd_operation(name: str, needs: tuple[bool, bool]) -> None:
    make, formula, names = CASES[name]
    store = store_of()
    x, y, dy = inputs()
    leaves = {n: store.view(n).clone().requires_grad_() for n in SHAPES}
    ours = x.clone().requires_grad_(needs[0]), y.clone().requires_grad_(needs[1])
    theirs = x.clone().requires_grad_(), y.clone().requires_grad_()
    formula(leaves, *theirs).backward(dy)
    out = attach(*ours, make(store), store.anchor)
    out.backward(dy)
    for mine, other, needed in zip(ours, theirs, needs, strict=True):
        if needed:
            zero = torch.zeros_like(other)
            close(
                zero if mine.grad is None else mine.grad, zero if other.grad is None else other.grad
            )
        else:
            assert mine.grad is None
    for n in names:
        found, expected = store.grad_view(n), leaves[n].grad
        assert found is not None
        assert expected is not None
        close(found, expected)
    assert torch.equal(ours[1].detach(), y)
