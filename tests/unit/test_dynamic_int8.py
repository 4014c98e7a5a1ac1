"""Integer products: those of rounded inputs with 8-bit codes, also where these are made of 4."""

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad

from fedloom.backbones.formats import SCHEMES
from fedloom.backbones.kernels import dynamic_int8, native
from fedloom.backbones.kernels.buffer import Buffer
from fedloom.backbones.kernels.dynamic_int8 import DynamicInt8
from fedloom.backbones.schemes import Packed, pack

CPU = torch.device("cpu")
pytestmark = pytest.mark.skipif(
    not dynamic_int8._exact(), reason="integer products are not exact on this processor"
)
compiled = pytest.mark.skipif(
    not native.unpacks(SCHEMES["int4-32"], CPU, torch.float32),
    reason="installed without a C compiler",
)
INT4 = ["int4-32", "int4-64", "int4-128"]


def rounded(x: Tensor) -> tuple[Tensor, Tensor]:
    """Integers and steps of rows, in float64."""
    steps = x.double().abs().amax(1, keepdim=True) / 127
    return torch.round(x.double() / steps), steps


def rows8(packed: Packed) -> tuple[Tensor, Tensor]:
    codes, steps = torch.empty(packed.shape, dtype=torch.int8), torch.empty(packed.shape[0])
    native.unpack_rows(packed, codes, steps)
    return codes, steps


def test_a_product_is_that_of_rounded_rows() -> None:
    torch.manual_seed(0)
    packed = pack(torch.randn(24, 64), SCHEMES["int8"])
    x, bias = torch.randn(300, 64), torch.randn(24)  # more rows than go at a time
    codes, steps = rounded(x)
    expected = (codes @ packed.codes.double().t()) * steps * packed.scale.double() + bias
    found = DynamicInt8().made(packed, torch.float32, Buffer()).forward(x, bias)
    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=1e-6)


@compiled
@pytest.mark.parametrize("name", INT4)
def test_rows_of_4_bits_become_rows_of_8(name: str) -> None:
    torch.manual_seed(0)
    packed = pack(torch.randn(7, 256) * torch.logspace(-3, 3, 7)[:, None], SCHEMES[name])
    packed.codes[0, :16] = torch.arange(16) * 17  # every code, first and second
    codes, steps = rows8(packed)
    # A row's largest magnitude is 8 times its largest scale.
    largest = 8 * packed.scale.float().abs().amax(1)
    torch.testing.assert_close(steps, largest / 127, rtol=1e-6, atol=0)
    off = (codes * steps[:, None] - packed.whole()).abs() / steps[:, None]
    assert float(off.max()) <= 0.5 + 1 / 64 + 1e-4


@compiled
def test_zeros_and_tiny_rows_are_zeros() -> None:
    packed = pack(torch.stack((torch.zeros(32), torch.full((32,), 1e-37))), SCHEMES["int4-32"])
    codes, steps = rows8(packed)
    assert not codes.any()
    assert steps[0] == 0


@compiled
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", INT4)
def test_4_bits_are_multiplied_as_8(
    name: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    packed = pack(torch.randn(48, 128), SCHEMES[name])
    x, bias = torch.randn(300, 128).to(dtype), torch.randn(48).to(dtype)
    codes, steps = rows8(packed)
    own, inner = rounded(x)
    expected = (own @ codes.double().t()) * inner * steps.double() + bias
    kept = DynamicInt8().made(packed, dtype, Buffer())
    for chunk in (4 << 20, 10 * 128):  # all rows of the weight at once, ten at a time
        monkeypatch.setattr(dynamic_int8, "_CHUNK", chunk)
        limit = 1e-6 if dtype == torch.float32 else 1e-2
        torch.testing.assert_close(
            kept.forward(x, bias).double(), expected, rtol=limit, atol=limit * 20
        )
    dy = torch.randn(9, 48).to(dtype)
    limit = 1e-5 if dtype == torch.float32 else 0.2
    torch.testing.assert_close(kept.dx(dy).float(), dy.float() @ packed.whole(), rtol=0, atol=limit)


@compiled
def test_a_derivative_goes_through_the_same_product() -> None:
    torch.manual_seed(0)
    kept = DynamicInt8().made(pack(torch.randn(8, 64), SCHEMES["int4-32"]), torch.float32, Buffer())
    x, along = torch.randn(5, 64), torch.randn(5, 64)
    with forward_ad.dual_level():
        y, dy = forward_ad.unpack_dual(kept.forward(forward_ad.make_dual(x, along), None))
        assert torch.equal(y, kept.forward(x, None))
        assert torch.equal(dy, kept.forward(along, None))


@compiled
def test_what_it_does_not_take() -> None:
    engine, nf4 = DynamicInt8(), SCHEMES["nf4-64"]
    assert not engine.takes(nf4, torch.float32, CPU)
    assert not engine.takes(SCHEMES["int8"], torch.float64, CPU)
    assert not engine.takes(SCHEMES["int8"], torch.float32, torch.device("cuda"))
    with pytest.raises(TypeError, match="unpack_rows: int4 on the CPU"):
        rows8(pack(torch.randn(2, 64), nf4))
    four = pack(torch.randn(4, 64), SCHEMES["int4-32"])
    with pytest.raises(TypeError, match="unpack_rows"):
        native.unpack_rows(four, torch.empty(64, 4, dtype=torch.int8).t(), torch.empty(4))


def test_products_that_are_not_exact_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    def saturated(a: Tensor, b: Tensor) -> Tensor:
        return (a.int() @ b.int()).clamp(max=2**15 - 1)

    monkeypatch.setattr(torch, "_int_mm", saturated)
    dynamic_int8._exact.cache_clear()
    assert not DynamicInt8().takes(SCHEMES["int8"], torch.float32, CPU)
    monkeypatch.undo()
    dynamic_int8._exact.cache_clear()
    assert DynamicInt8().takes(SCHEMES["int8"], torch.float32, CPU)
