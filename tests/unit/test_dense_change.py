"""Modules trained themselves, against autograd through the modules with each client's tensors."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from fedloom.backbones.base import Attachment
from fedloom.core.layout import Layout, Selector, TensorSpec
from fedloom.core.types import Params
from fedloom.tuning.base import Frozen
from fedloom.tuning.dense_change import DenseChange, NormChange
from fedloom.tuning.store import Store

K, LENGTH, D_IN, D_OUT = 3, 5, 6, 4
EPS = 1e-3


def drawn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def kind_of(name: str) -> tuple[Frozen, int]:
    """The frozen module of a case, and the width of its input."""
    match name:
        case "linear":
            return Frozen(drawn(D_OUT, D_IN, seed=1), drawn(D_OUT, seed=2)), D_IN
        case "transposed":
            weight = drawn(D_IN, D_OUT, seed=1)
            return Frozen(weight, drawn(D_OUT, seed=2), transposed=True), D_IN
        case "layer norm":
            return Frozen(drawn(D_OUT, seed=1), drawn(D_OUT, seed=2), eps=EPS), D_OUT
    return Frozen(drawn(D_OUT, seed=1), None, eps=EPS, centred=False), D_OUT


KINDS = ("linear", "transposed", "layer norm", "rms norm")


def module(name: str, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """What the module says to one client's ``[L, d_in]``."""
    match name:
        case "linear":
            return functional.linear(x, weight, bias)
        case "transposed":
            return functional.linear(x, weight.t(), bias)
        case "layer norm":
            return functional.layer_norm(x, (D_OUT,), weight, bias, EPS)
    return functional.rms_norm(x, (D_OUT,), weight, EPS)


def store_of(frozen: Frozen, train: Selector = ("*",), moved: float = 0.5) -> Store:
    """Clients whose tensors have moved away from the frozen ones, each in its own way."""
    tensors = {"w": frozen.weight} | ({} if frozen.bias is None else {"b": frozen.bias})
    layout = Layout(tuple(TensorSpec(n, tuple(t.shape)) for n, t in tensors.items()))
    start = torch.cat([t.flatten() for t in tensors.values()]).float()
    start += moved * drawn(layout.size, seed=3)
    store = Store(Params(layout, start.numpy()), train, clients=K)
    store.values.add_(moved * drawn(*store.values.shape, seed=4))
    return store


def attachment_of(store: Store, frozen: Frozen) -> Attachment:
    bias = None if frozen.bias is None else "b"
    made = DenseChange if frozen.eps is None else NormChange
    return made(store, weight="w", bias=bias, frozen=frozen)


def whole(frozen: Frozen, name: str, store: Store, x: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Every client's module on its own tensors, and those as leaves."""
    names = ["w"] if frozen.bias is None else ["w", "b"]
    leaves = [store.view(n).clone().requires_grad_() for n in names]
    rows = [
        module(name, x[i], leaves[0][i], leaves[1][i] if leaves[1:] else None) for i in range(K)
    ]
    return torch.stack(rows), leaves


def close(got: Tensor, want: Tensor) -> None:
    torch.testing.assert_close(got, want, rtol=1e-5, atol=5e-6)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("train", [("*",), ("w",)])
def test_forward_and_gradients_are_those_of_the_clients_own_modules(
    name: str, train: Selector
) -> None:
    frozen, d_in = kind_of(name)
    store = store_of(frozen, train)
    x, dy = drawn(K, LENGTH, d_in, seed=5), drawn(K, LENGTH, D_OUT, seed=6)
    leaf = x.clone().requires_grad_()
    want, leaves = whole(frozen, name, store, leaf)
    want.backward(dy)

    x_frozen = x.clone().requires_grad_()
    y = module(name, x_frozen, frozen.weight, frozen.bias)
    attachment = attachment_of(store, frozen)
    out, saved = attachment.forward(x, y.detach().clone())
    close(out, want.detach())
    d_frozen, add = attachment.backward(saved, dy.clone())
    y.backward(d_frozen)
    assert add is not None
    assert leaf.grad is not None
    assert x_frozen.grad is not None
    close(add(x_frozen.grad.clone()), leaf.grad)
    for n, expected in zip(("w", "b"), leaves, strict=False):
        found = store.grad_view(n)
        assert (found is None) == (n not in train and train != ("*",))
        if found is not None and expected.grad is not None:
            close(found, expected.grad)


@pytest.mark.parametrize("name", KINDS)
def test_gradients_add_up_over_backward_passes(name: str) -> None:
    frozen, d_in = kind_of(name)
    store = store_of(frozen)
    sums = []
    for _ in range(2):
        attachment = attachment_of(store, frozen)
        _, saved = attachment.forward(drawn(K, LENGTH, d_in, seed=5), torch.zeros(K, LENGTH, D_OUT))
        attachment.backward(saved, drawn(K, LENGTH, D_OUT, seed=6))
        sums.append(store.grad.clone())
    close(sums[1], 2 * sums[0])


@pytest.mark.parametrize("name", KINDS)
def test_what_is_fixed_and_unchanged_does_nothing(name: str) -> None:
    frozen, d_in = kind_of(name)
    attachment = attachment_of(store_of(frozen, train=(), moved=0.0), frozen)
    y = drawn(K, LENGTH, D_OUT, seed=7)
    out, saved = attachment.forward(drawn(K, LENGTH, d_in, seed=5), y.clone())
    assert torch.equal(out, y)
    dx = drawn(K, LENGTH, d_in, seed=8)
    dy, add = attachment.backward(saved, y.clone())
    assert torch.equal(dy, y)
    assert add is None or torch.equal(add(dx.clone()), dx)


def test_a_change_that_bfloat16_would_round_away() -> None:
    # 1 + 2^-10 is 1 in bfloat16; its change, 2^-10, is not 0.
    ones = torch.ones(D_OUT, D_IN, dtype=torch.bfloat16)
    frozen = Frozen(ones, None)
    layout = Layout((TensorSpec("w", (D_OUT, D_IN)),))
    start = torch.full((layout.size,), 1 + 2.0**-10)
    store = Store(Params(layout, start.numpy()), ("*",), clients=1, dtype=torch.bfloat16)
    x = torch.ones(1, LENGTH, D_IN, dtype=torch.bfloat16)
    attachment = DenseChange(store, weight="w", bias=None, frozen=frozen)
    out, saved = attachment.forward(x, torch.zeros(1, LENGTH, D_OUT, dtype=torch.bfloat16))
    assert out.dtype == torch.bfloat16
    assert torch.equal(out.float(), torch.full((1, LENGTH, D_OUT), D_IN * 2.0**-10))
    attachment.backward(saved, torch.ones(1, LENGTH, D_OUT, dtype=torch.bfloat16))
    assert torch.equal(store.grad, torch.full((1, layout.size), float(LENGTH)))
