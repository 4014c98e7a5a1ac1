"""Weights in fewer bits: products and gradients are those of the weights as they were rounded."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from fused_models import CPU, close, fused, loras, reference, tokens, weigh
from torch import Tensor
from torch.autograd import forward_ad

from fedloom.backbones.base import Site
from fedloom.backbones.formats import SCHEMES
from fedloom.backbones.fused import FusedBackbone, load_fused
from fedloom.backbones.kernels import dequantize
from fedloom.backbones.kernels.buffer import Buffer
from fedloom.backbones.kernels.dequantize import Dequantize, Dequantized
from fedloom.backbones.kernels.rounding import rounded
from fedloom.backbones.packing import pack as packed_tokens
from fedloom.backbones.product import Product
from fedloom.backbones.schemes import pack


def kept_of(weight: Tensor, scheme: str = "int8") -> Dequantized:
    return Dequantize().made(pack(weight, SCHEMES[scheme]), weight.dtype, Buffer())


@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_both_products_are_those_of_the_rounded_weight(
    scheme: str, biased: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    kept = kept_of(torch.randn(6, 128, dtype=torch.float64), scheme)
    x, dy = (torch.randn(5, n, dtype=torch.float64) for n in (128, 6))
    bias = torch.randn(6, dtype=torch.float64) if biased else None
    expected = x @ kept.whole().t() + (0 if bias is None else bias)
    for chunk in (8 << 20, 2 * 128 * 8):  # all rows at once, two at a time
        monkeypatch.setattr(dequantize, "_CHUNK", chunk)
        torch.testing.assert_close(kept.forward(x, bias), expected, rtol=0, atol=1e-12)
        torch.testing.assert_close(kept.dx(dy), dy @ kept.whole(), rtol=0, atol=1e-12)
        some = kept[2:5]
        torch.testing.assert_close(some.dx(dy[:, 2:5]), dy[:, 2:5] @ kept.whole()[2:5])


def test_threads_do_not_share_what_is_unpacked() -> None:
    torch.manual_seed(0)
    buffer = Buffer()
    weights = [
        pack(torch.randn(256, 256), SCHEMES[s]) for s in ("int8", "int4-32", "int8", "int4-32")
    ]
    kept = [Dequantize().made(weight, torch.float32, buffer) for weight in weights]
    x = torch.randn(8, 256)
    expected = [one.forward(x, None) for one in kept]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(20):
            found = pool.map(lambda one: one.forward(x, None), kept)
            assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("scheme", SCHEMES)
def test_forward_mode_goes_through_both(scheme: str) -> None:
    torch.manual_seed(0)
    kept = kept_of(torch.randn(6, 128, dtype=torch.float64), scheme)
    x, along, bias = (
        torch.randn(*shape, dtype=torch.float64) for shape in ((5, 128),) * 2 + ((6,),)
    )
    with forward_ad.dual_level():
        y, dy = forward_ad.unpack_dual(kept.forward(forward_ad.make_dual(x, along), bias))
        torch.testing.assert_close(y, x @ kept.whole().t() + bias, rtol=0, atol=1e-12)
        torch.testing.assert_close(dy, along @ kept.whole().t(), rtol=0, atol=1e-12)


def dequantized(backbone: FusedBackbone) -> FusedBackbone:
    """The same numbers as plain weights."""

    def plain(product: Product) -> Product:
        assert isinstance(product.weight, Dequantized)
        return replace(product, weight=product.weight.whole())

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
    small = replace(plain, layers=tuple(rounded(block, buffer) for block in plain.layers))
    assert small.linears == plain.linears
    assert small.flops_per_token(0) == plain.flops_per_token(0)
    packing = packed_tokens(tokens(((2, 3), (4,))), read="last" if trim else None)
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
    small = replace(plain, layers=tuple(rounded(block, buffer) for block in plain.layers))
    packing = packed_tokens(tokens(((2, 3), (4,))), read=None)
    found = []
    for backbone in (small, dequantized(small)):
        own = loras(plain, 2)
        sites = {name: Site(None, lora) for name, lora in own.items()}
        out = backbone.run(backbone.embed(packing), packing, sites=sites).flatten(0, 1)[:-1]
        weigh(out).backward()
        found.append(torch.cat([g.flatten() for x in own.values() for g in x.grads.values()]))
    close(found[0], found[1])
