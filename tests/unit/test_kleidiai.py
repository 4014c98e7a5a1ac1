"""torch's product with 4-bit integers: that of what is stored, each row rounded by itself."""

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad

from fedloom.backbones.formats import SCHEMES
from fedloom.backbones.kernels import kleidiai
from fedloom.backbones.kernels.buffer import Buffer
from fedloom.backbones.kernels.dequantize import DEQUANTIZE
from fedloom.backbones.kernels.kleidiai import KleidiAI
from fedloom.backbones.schemes import Packed, pack

CPU = torch.device("cpu")
INT4 = ["int4-32", "int4-64", "int4-128"]
right = pytest.mark.skipif(
    not kleidiai._right(SCHEMES["int4-32"]), reason="this torch has no such product"
)


def drawn(rows: int, columns: int, seed: int = 0) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def rounded(x: Tensor) -> Tensor:
    """Rows in 255 steps from their least number (0 at most) to their largest (0 at least)."""
    wide = x.double()
    least, most = wide.amin(1, keepdim=True).clamp(max=0), wide.amax(1, keepdim=True).clamp(min=0)
    step = (most - least) / 255
    zero = torch.round(-128 - least / step)
    return (torch.round(wide / step) + zero).clamp(-128, 127).sub(zero).mul(step)


@right
@pytest.mark.parametrize("columns", [128, 384])  # of int4-128, one group in a row, and three
@pytest.mark.parametrize("name", INT4)
def test_a_product_is_that_of_rounded_rows(name: str, columns: int) -> None:
    packed = pack(drawn(24, columns), SCHEMES[name])
    x, bias = drawn(9, columns, 1), torch.linspace(-1, 1, 24)
    found = KleidiAI().made(packed, torch.float32, Buffer()).forward(x, bias)
    expected = rounded(x) @ packed.whole(torch.float64).t() + bias
    # Where a number lies between two steps, the operator may take the other one.
    near = (found.double() - expected).norm() / expected.norm()
    assert float(near) < 2e-3
    plain = DEQUANTIZE.made(packed, torch.float32, Buffer()).forward(x, bias)
    assert float((found - plain).norm() / plain.norm()) < 0.02


@right
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_no_row_depends_on_the_others(dtype: torch.dtype) -> None:
    kept = KleidiAI().made(pack(drawn(40, 96), SCHEMES["int4-32"]), dtype, Buffer())
    x = (drawn(17, 96, 1) * torch.logspace(-3, 3, 17)[:, None]).to(dtype)
    alone = torch.cat([kept.forward(x[i : i + 1], None) for i in range(17)])
    together = kept.forward(x, None)
    assert together.dtype == dtype
    assert torch.equal(together, alone)


@right
def test_the_gradient_and_derivatives_are_those_of_what_is_stored() -> None:
    packed = pack(drawn(40, 96), SCHEMES["int4-32"])
    kept = KleidiAI().made(packed, torch.float32, Buffer())
    dy = drawn(7, 40, 1)
    torch.testing.assert_close(kept.dx(dy), dy @ packed.whole(), rtol=1e-5, atol=1e-5)
    x, along = drawn(5, 96, 2), drawn(5, 96, 3)
    with forward_ad.dual_level():
        y, tangent = forward_ad.unpack_dual(kept.forward(forward_ad.make_dual(x, along), None))
        assert torch.equal(y, kept.forward(x, None))
        assert torch.equal(tangent, kept.forward(along, None))


@right
def test_some_rows_are_packed_once_and_counted() -> None:
    packed = pack(drawn(40, 96), SCHEMES["int4-32"])
    kept = KleidiAI().made(packed, torch.float32, Buffer())
    x, before = drawn(5, 96, 1), kept.nbytes
    whole = kept.forward(x, None)
    for _ in range(2):
        for rows in (slice(0, 8), slice(8, 40)):
            assert torch.equal(kept[rows].forward(x, None), whole[:, rows])
    beside = before - packed.nbytes
    assert beside > 0
    assert kept.nbytes == packed.nbytes + 2 * beside  # 8 rows and 32 rows: as many again


def test_what_it_does_not_take(monkeypatch: pytest.MonkeyPatch) -> None:
    engine, int4 = KleidiAI(), SCHEMES["int4-32"]
    for name in ("int8", "nf4-64", "uint4-32", "q4_0"):
        assert not engine.takes(SCHEMES[name], torch.float32, CPU)
    assert not engine.takes(int4, torch.float64, CPU)
    assert not engine.takes(int4, torch.float32, torch.device("cuda"))
    real = kleidiai._multiplied

    def mixed(x: Tensor, weight: Tensor, packed: Packed) -> Tensor:
        y = real(x, weight, packed)
        return y if len(x) == 1 else y + 1e-6

    def absent(packed: Packed) -> Tensor:
        raise AttributeError("no such operator")

    for name, changed in (("_multiplied", mixed), ("_packed", absent)):
        with monkeypatch.context() as patched:
            patched.setattr(kleidiai, name, changed)
            kleidiai._right.cache_clear()
            assert not engine.takes(int4, torch.float32, CPU)
    kleidiai._right.cache_clear()
