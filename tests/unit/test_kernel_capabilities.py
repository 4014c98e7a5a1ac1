"""Every engine over every layer of a model: what its `Capabilities` promise, and no more."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from fused_models import CPU, tokens
from torch import Tensor
from torch.autograd import forward_ad
from transformers import AutoModel, BertConfig, LlamaConfig

from fedloom.backbones.formats import SCHEMES
from fedloom.backbones.fused import FusedBackbone, load_fused
from fedloom.backbones.kernels.base import Engine
from fedloom.backbones.kernels.choose import ENGINES
from fedloom.backbones.kernels.dequantize import DEQUANTIZE
from fedloom.backbones.packing import pack
from fedloom.backbones.product import Product, Quantized, multiply, multiply_back
from fedloom.backbones.quantize import quantize

SIZES = {
    "hidden_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 256,
    "vocab_size": 50,
}
PACKING = pack(tokens(((5, 9, 2), (7,))), read=None)
PLAIN = {name: scheme for name, scheme in SCHEMES.items() if not scheme.wide}
"""Wider scales make no other kernel: `test_dequantize` has them."""
STEP = 1e-3
"""Of finite differences, in hidden states of size 1."""
ROUNDED = 0.03
"""Relative error of a product whose inputs, and in 4 bits weights, are rounded to 8 bits."""


def model(family: str) -> Any:
    torch.manual_seed(0)
    if family == "bert":
        return AutoModel.from_config(BertConfig(**SIZES, max_position_embeddings=32))
    return AutoModel.from_config(LlamaConfig(**SIZES, num_key_value_heads=2))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Path]:
    """Stored models by family and format."""
    found = {}
    for family in ("bert", "llama"):
        plain = tmp_path_factory.mktemp(family)
        model(family).save_pretrained(plain)
        for name, scheme in PLAIN.items():
            found[family, name] = quantize(plain, plain.parent / f"{family}-{name}", scheme)
    return found


Folders = dict[tuple[str, str], Path]


def able(dtype: torch.dtype = torch.float32) -> list[tuple[str, str]]:
    """Engines and the formats that they take here."""
    return [
        (engine.name, scheme.name)
        for engine in ENGINES.values()
        for scheme in PLAIN.values()
        if engine.takes(scheme, dtype, CPU)
    ]


def loaded(folder: Path, engine: Engine, dtype: torch.dtype = torch.float32) -> FusedBackbone:
    return load_fused(folder, dtype=dtype, device=CPU, kernel=engine)


def frozen(backbone: FusedBackbone) -> Iterator[tuple[Product, Quantized]]:
    """Every product of the model."""
    for block in backbone.layers:
        for product in block.products:
            assert not isinstance(product.weight, Tensor)
            yield product, product.weight


def error(found: Tensor, expected: Tensor) -> float:
    return float((found.double() - expected.double()).norm() / expected.double().norm())


def hidden(backbone: FusedBackbone, seed: int = 0) -> Tensor:
    """Random hidden states."""
    made = torch.Generator().manual_seed(seed)
    return torch.randn(2, PACKING.length, backbone.shape.width, generator=made).to(backbone.dtype)


def value(backbone: FusedBackbone, start: Tensor) -> Tensor:
    """A smooth number of all final hidden states."""
    return backbone.run(start, PACKING)[:, :7].double().tanh().sum()


@pytest.mark.parametrize("family", ["bert", "llama"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_dx_is_that_of_what_is_stored_in_every_layer(
    folders: Folders, family: str, dtype: torch.dtype
) -> None:
    # float64 holds W~ exactly, so that nothing but the order of sums is left.
    tolerance = {torch.float64: 1e-14, torch.float32: 1e-3, torch.bfloat16: 1e-2}[dtype]
    for name, scheme in able(dtype):
        assert ENGINES[name].capabilities.backward
        torch.manual_seed(1)
        backbone = loaded(folders[family, scheme], ENGINES[name], dtype)
        for product, weight in frozen(backbone):
            dy = torch.randn(11, weight.shape[0], dtype=dtype)
            expected = dy.double() @ weight.whole().double()
            where = f"{name}, {scheme}, {product.members[0].name}"
            assert error(multiply_back(dy, weight), expected) <= tolerance, where


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_outputs_are_those_of_what_is_stored(folders: Folders, family: str) -> None:
    for name, scheme in able():
        torch.manual_seed(1)
        limit = 1e-6 if ENGINES[name].capabilities.weight_only else ROUNDED
        for product, weight in frozen(loaded(folders[family, scheme], ENGINES[name])):
            x = torch.randn(11, weight.shape[1])
            expected = x.double() @ weight.whole().double().t()
            where = f"{name}, {scheme}, {product.members[0].name}"
            assert error(multiply(x, weight, None), expected) <= limit, where


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_no_layer_cuts_the_gradient(folders: Folders, family: str) -> None:
    # A kernel without a derivative would leave the residual path alone, whose gradient is another.
    for name, scheme in able():
        slopes = []
        for engine in (ENGINES[name], DEQUANTIZE):
            backbone = loaded(folders[family, scheme], engine)
            start = hidden(backbone).requires_grad_()
            slopes.append(torch.autograd.grad(value(backbone, start), start)[0])
        limit = 1e-6 if ENGINES[name].capabilities.weight_only else 0.1
        assert error(*slopes) <= limit, f"{name}, {scheme}"


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_forward_mode_and_small_steps(folders: Folders, family: str) -> None:
    # Slopes along 12 directions by a small step, and by forward mode, beside those of autograd
    # through the reference. What rounds its inputs tells no slope by so small a step.
    for name, scheme in able():
        if SCHEMES[scheme].group > 32 and SCHEMES[scheme].kind == "int4":
            continue  # another group makes no other kernel
        engine, where = ENGINES[name], f"{name}, {scheme}"
        backbone = loaded(folders[family, scheme], engine)
        start = hidden(backbone)
        exact = start.clone().requires_grad_()
        gradient = torch.autograd.grad(
            value(loaded(folders[family, scheme], DEQUANTIZE), exact), exact
        )[0]
        slopes, steps, tangents = [], [], []
        for seed in range(1, 13):
            z = hidden(backbone, seed).sign()
            slopes.append(float((gradient * z).sum()))
            ends = (float(value(backbone, start + sign * STEP * z)) for sign in (1, -1))
            steps.append((next(ends) - next(ends)) / (2 * STEP))
            with forward_ad.dual_level():
                y = value(backbone, forward_ad.make_dual(start, z))
                tangents.append(float(forward_ad.unpack_dual(y).tangent))
        assert (cosine(tangents, slopes) > 0.98) == engine.capabilities.jvp_safe, where
        assert (cosine(steps, slopes) > 0.99) == engine.capabilities.fd_safe, where


def cosine(a: list[float], b: list[float]) -> float:
    return float(torch.cosine_similarity(torch.tensor(a), torch.tensor(b), 0))


def test_no_row_depends_on_the_others(folders: Folders) -> None:
    # 300 rows are more than are rounded at a time: a client of a cohort gets the bits that it gets
    # alone.
    x = torch.randn(300, 256, generator=torch.Generator().manual_seed(0))
    for name, scheme in able():
        if ENGINES[name].capabilities.weight_only:
            continue
        for _, weight in frozen(loaded(folders["bert", scheme], ENGINES[name])):
            own = x[:, : weight.shape[1]]
            together = multiply(own, weight, None)
            for rows in (slice(0, 1), slice(3, 40), slice(250, 300)):
                assert torch.equal(multiply(own[rows], weight, None), together[rows]), name
