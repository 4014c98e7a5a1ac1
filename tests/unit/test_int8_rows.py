"""Weights in 8 bits: products and gradients are those of the weights as they were rounded."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from fused_models import CPU, close, fused, loras, reference, tokens, weigh
from torch import Tensor

from fedloom.backbones.base import Site
from fedloom.backbones.fused import FusedBackbone, load_fused
from fedloom.backbones.int8_rows import Buffer, Int8Rows, in_int8
from fedloom.backbones.packing import pack
from fedloom.backbones.product import Product


def whole(weight: Int8Rows) -> Tensor:
    """W~."""
    return weight.integers.to(weight.scale) * weight.scale[:, None]


def test_a_row_by_hand() -> None:
    # The largest magnitude is 2.54: steps of 0.02. 0.05 lies between 2 and 3 of them (even: 2).
    weight = torch.tensor([[2.54, -1.0, 0.011], [0.0, 0.0, 0.0]], dtype=torch.float64)
    kept = Int8Rows.of(weight, Buffer())
    assert kept.integers.tolist() == [[127, -50, 1], [0, 0, 0]]
    assert kept.scale.tolist() == [pytest.approx(0.02), 0.0]
    assert kept.shape == (2, 3)
    assert kept.nbytes == 6 + 16


@pytest.mark.parametrize(("dtype", "most"), [(torch.float32, 0.501), (torch.bfloat16, 1.0)])
def test_no_number_moves_by_more_than_is_said(dtype: torch.dtype, most: float) -> None:
    torch.manual_seed(0)
    weight = torch.randn(40, 300).to(dtype)
    kept = Int8Rows.of(weight, Buffer())
    moved = (whole(kept).double() - weight.double()).abs() / kept.scale.double()[:, None]
    assert float(moved.max()) <= most


@pytest.mark.parametrize("biased", [True, False])
def test_both_products_are_those_of_the_rounded_weight(biased: bool) -> None:
    torch.manual_seed(0)
    kept = Int8Rows.of(torch.randn(6, 8, dtype=torch.float64), Buffer())
    x, dy = (torch.randn(5, n, dtype=torch.float64) for n in (8, 6))
    bias = torch.randn(6, dtype=torch.float64) if biased else None
    expected = x @ whole(kept).t() + (0 if bias is None else bias)
    torch.testing.assert_close(kept.forward(x, bias), expected, rtol=0, atol=1e-14)
    torch.testing.assert_close(kept.dx(dy), dy @ whole(kept), rtol=0, atol=1e-14)
    some = kept[2:5]
    torch.testing.assert_close(some.dx(dy[:, 2:5]), dy[:, 2:5] @ whole(kept)[2:5])


def dequantized(backbone: FusedBackbone) -> FusedBackbone:
    """The same numbers as plain weights."""

    def plain(product: Product) -> Product:
        assert isinstance(product.weight, Int8Rows)
        return replace(product, weight=whole(product.weight))

    layers = tuple(
        replace(
            b,
            attention=replace(b.attention, qkv=plain(b.attention.qkv), out=plain(b.attention.out)),
            mlp=replace(b.mlp, up=plain(b.mlp.up), down=plain(b.mlp.down)),
        )
        for b in backbone.layers
    )
    return replace(backbone, layers=layers)


@pytest.mark.parametrize("trim", [True, False])
@pytest.mark.parametrize("family", ["bert", "gpt2", "llama", "vit"])
def test_blocks_run_as_with_the_rounded_weights(family: str, trim: bool, tmp_path: Path) -> None:
    fused(reference(family), tmp_path)
    plain = load_fused(tmp_path, dtype=torch.float64, device=CPU)
    buffer = Buffer()
    small = replace(plain, layers=tuple(in_int8(block, buffer) for block in plain.layers))
    assert small.linears == plain.linears
    assert small.flops_per_token(0) == plain.flops_per_token(0)
    packing = pack(tokens(((2, 3), (4,))), read="last" if trim else None)
    torch.manual_seed(1)
    start = torch.randn(2, packing.length, 32, dtype=torch.float64)
    found = []
    for backbone in (small, dequantized(small)):
        hidden = start.clone().requires_grad_()
        out = backbone.run(hidden, packing, trim=trim).flatten(0, 1)[:-1]  # the last is padding
        found.append((out, *torch.autograd.grad(weigh(out), hidden)))
    (out, grad), (expected, slope) = found
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(grad, slope, rtol=0, atol=1e-11)


def test_adapters_train_on_weights_in_8_bits(tmp_path: Path) -> None:
    plain = fused(reference("bert"), tmp_path)
    buffer = Buffer()
    small = replace(plain, layers=tuple(in_int8(block, buffer) for block in plain.layers))
    packing = pack(tokens(((2, 3), (4,))), read=None)
    found = []
    for backbone in (small, dequantized(small)):
        own = loras(plain, 2)
        sites = {name: Site(None, lora) for name, lora in own.items()}
        out = backbone.run(backbone.embed(packing), packing, sites=sites).flatten(0, 1)[:-1]
        weigh(out).backward()
        found.append(torch.cat([g.flatten() for x in own.values() for g in x.grads.values()]))
    close(found[0], found[1])
