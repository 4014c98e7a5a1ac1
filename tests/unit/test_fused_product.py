"""Frozen products: every type and stride, and a whole block against finite differences."""

from pathlib import Path

import pytest
import torch
from fused_models import CPU, close, fused, reference, tokens, weigh
from torch import Tensor

from fedloom.backbones.fused import load_fused
from fedloom.backbones.packing import pack
from fedloom.backbones.product import Member, Product, affine
from fedloom.core.errors import ModelError


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("biased", [True, False])
def test_affine_takes_any_strides(dtype: torch.dtype, biased: bool) -> None:
    wide = torch.randn(7, 12, dtype=dtype)
    weight = torch.randn(5, 12, dtype=dtype)
    bias = torch.randn(5, dtype=dtype) if biased else None
    expected = wide[:, 2:10] @ weight[:, 2:10].t() + (0 if bias is None else bias)
    close(affine(wide[:, 2:10], weight[:, 2:10], bias), expected)
    back = torch.randn(7, 5, dtype=dtype)
    close(affine(back, weight.t()), back @ weight)


def test_affine_in_bfloat16_rounds_once() -> None:
    """1 + 2^-9 + 2^-9 is 1 + 2^-8: summed in bfloat16 step by step it would stay 1."""
    x = torch.tensor([[1.0, 2**-9, 2**-9, 2**-8]], dtype=torch.bfloat16)
    y = affine(x, torch.ones(1, 4, dtype=torch.bfloat16))
    assert y.item() == 1 + 2**-7


def test_part_shares_the_weights() -> None:
    members = (Member("q", 0, 2), Member("k", 2, 3), Member("v", 3, 5))
    product = Product(members, torch.randn(5, 4), torch.randn(5))
    part = product.part(1, 3)
    assert isinstance(part.weight, Tensor)
    assert isinstance(product.weight, Tensor)
    assert part.members == (Member("k", 0, 1), Member("v", 1, 3))
    assert part.weight.data_ptr() == product.weight[2:].data_ptr()
    x = torch.randn(3, 4)
    close(part.forward(x, 1, {})[0], product.forward(x, 1, {})[0][:, 2:])


@pytest.mark.parametrize("trim", [True, False])
@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_blocks_against_central_differences(family: str, trim: bool, tmp_path: Path) -> None:
    """In float64, along a random direction u: <gradient, u> = (f(x + hu) - f(x - hu)) / 2h."""
    fused(reference(family), tmp_path)
    backbone = load_fused(tmp_path, dtype=torch.float64, device=CPU)
    packing = pack(tokens(((2, 3), (4,))), read="last")
    start = backbone.embed(packing).requires_grad_()

    def loss(hidden: Tensor) -> Tensor:
        out = backbone.run(hidden, packing, trim=trim)
        pooled = backbone.finish(out, packing, "last", trimmed=trim)
        return weigh(pooled.flatten(0, 1)[:3])  # the fourth place holds no example

    torch.manual_seed(1)
    along, step = torch.randn_like(start), 1e-5
    gradient = torch.autograd.grad(loss(start), start)[0]
    with torch.no_grad():
        slope = (loss(start + step * along) - loss(start - step * along)) / (2 * step)
    assert float((gradient * along).sum()) == pytest.approx(float(slope), rel=1e-6)


def test_activations_are_freed_by_the_backward_pass(tmp_path: Path) -> None:
    backbone = fused(reference("bert"), tmp_path)
    packing = pack(tokens(((2,),)), read=None)
    out = backbone.run(backbone.embed(packing).requires_grad_(), packing).sum()
    torch.autograd.backward(out, retain_graph=True)
    with pytest.raises(ModelError, match="second backward pass"):
        torch.autograd.backward(out)
