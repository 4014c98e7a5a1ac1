"""Scales of stored weights that train: beside autograd over the weight as a function of them."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad

from fedloom.backbones.formats import SCHEMES
from fedloom.backbones.schemes import Packed, pack
from fedloom.core.layout import Layout, TensorSpec
from fedloom.core.types import Params
from fedloom.tuning import scale_change
from fedloom.tuning.attach import attach
from fedloom.tuning.scale_change import GroupScales, RowScales
from fedloom.tuning.store import Store

K, LENGTH, D_OUT, D_IN = 3, 5, 7, 128


def drawn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def stored(scheme: str) -> Packed:
    weight = drawn(D_OUT, D_IN, seed=1)
    weight[2] = 0  # its scale is zero
    return pack(weight, SCHEMES[scheme])


def rows_of(packed: Packed, train: tuple[str, ...] = ("*",)) -> Store:
    layout = Layout((TensorSpec("s", tuple(packed.scale.shape)),))
    change = 0.1 * drawn(layout.size, seed=2) * packed.scale.float().flatten()
    store = Store(Params(layout, change.numpy()), train, clients=K)
    store.values.mul_(torch.tensor([[1.0], [-2.0], [0.0]]))
    return store


def of_scales(packed: Packed, scale: Tensor) -> Tensor:
    """``W~(s)`` of each client, differentiable in ``[k, ...]`` scales."""
    codes = replace(packed, scale=torch.ones_like(packed.scale), least=None).whole()
    if not packed.scheme.group:
        return codes * scale[..., None]
    groups = codes.view(D_OUT, -1, packed.scheme.group) * scale[..., None]
    return (groups if packed.least is None else groups + packed.least[..., None]).flatten(2)


def attached(packed: Packed, store: Store, bias: Tensor) -> RowScales | GroupScales:
    if packed.scheme.group:
        return GroupScales(store, name="s", packed=packed)
    return RowScales(store, name="s", packed=packed, bias=bias)


@pytest.mark.parametrize("rows", [1, 3, 100])
@pytest.mark.parametrize(
    "scheme", ["int8", "int4-32", "int4-128", "nf4-64", "q8_0", "q4_0", "q4_1"]
)
def test_gradients_are_autograds(scheme: str, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scale_change, "_CHUNK", rows * D_IN * 4)
    packed, bias = stored(scheme), drawn(D_OUT, seed=3)
    store = rows_of(packed)
    x, dy = drawn(K, LENGTH, D_IN, seed=4), drawn(K, LENGTH, D_OUT, seed=5)
    x_leaf = x.clone().requires_grad_()
    scale = (packed.scale.float() + store.view("s")).requires_grad_()
    y = torch.bmm(x_leaf, of_scales(packed, scale).mT) + bias
    (y * dy).sum().backward()

    inputs = x.clone().requires_grad_()
    plain = inputs @ packed.whole().t() + bias
    found = attach(inputs, plain, attached(packed, store, bias), store.anchor)
    (found * dy).sum().backward()
    torch.testing.assert_close(found, y, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(inputs.grad, x_leaf.grad, rtol=1e-4, atol=1e-4)
    expected = scale.grad
    assert expected is not None
    if scheme == "int8":  # a row whose scale is zero has codes of zero
        assert not expected[:, 2].any()
    torch.testing.assert_close(store.grad_view("s"), expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("scheme", ["int8", "int4-32"])
def test_forward_derivatives_go_through(scheme: str) -> None:
    packed, bias = stored(scheme), drawn(D_OUT, seed=3)
    store = rows_of(packed)
    x, tangent = drawn(K, LENGTH, D_IN, seed=4), drawn(K, LENGTH, D_IN, seed=6)
    weight = of_scales(packed, packed.scale.float() + store.view("s"))
    with torch.no_grad(), forward_ad.dual_level():
        dual = forward_ad.make_dual(x, tangent)
        y = dual @ packed.whole().t() + bias
        out, _ = attached(packed, store, bias).forward(dual, y)
        slopes = forward_ad.unpack_dual(out).tangent
    torch.testing.assert_close(slopes, torch.bmm(tangent, weight.mT), rtol=1e-4, atol=1e-4)


def test_scales_that_do_not_train_only_change_the_product() -> None:
    packed, bias = stored("int4-32"), drawn(D_OUT, seed=3)
    layout = Layout((TensorSpec("s", tuple(packed.scale.shape)), TensorSpec("t", (1,))))
    start = torch.cat((packed.scale.float().flatten(), torch.zeros(1)))  # twice the scale
    store = Store(Params(layout, start.numpy()), ("t",), clients=K)
    x = drawn(K, LENGTH, D_IN, seed=4)
    whole = packed.whole()
    attachment = attached(packed, store, bias)
    out, saved = attachment.forward(x, x @ whole.t() + bias)
    torch.testing.assert_close(out, 2 * x @ whole.t() + bias, rtol=1e-4, atol=1e-4)
    dy, add = attachment.backward(saved, torch.ones(K, LENGTH, D_OUT))
    assert add is not None
    torch.testing.assert_close(add(torch.zeros(K, LENGTH, D_IN)), dy @ whole, rtol=1e-4, atol=1e-4)
