"""Stored formats: by hand, and how far numbers move."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedloom.backbones.formats import NF4, SCHEMES, scheme_of
from fedloom.backbones.kernels import native
from fedloom.backbones.schemes import pack
from fedloom.core.errors import ConfigError, ModelError


def test_a_row_of_bytes_by_hand() -> None:
    # The largest magnitude is 2.54: steps of 0.02. 0.05 lies between 2 and 3 of them (even: 2).
    packed = pack(torch.tensor([[2.54, -1.0, 0.011], [0.0, 0.0, 0.0]]), SCHEMES["int8"])
    assert packed.codes.tolist() == [[127, -50, 1], [0, 0, 0]]
    assert packed.scale.tolist() == [pytest.approx(0.02), 0.0]
    assert packed.shape == (2, 3)
    assert packed.nbytes == 6 + 8


def test_a_group_of_four_bits_by_hand() -> None:
    # Of largest magnitude is +4: it becomes -8 times a scale of -0.5. 1.0 is then -2, so 6; -3.5
    # is 7, the last code; 0.2 is -0.4, rounded to 0, so 8.
    row = [4.0, 1.0, -3.5, 0.2, *[0.0] * 28]
    packed = pack(torch.tensor([row]), SCHEMES["int4-32"])
    assert packed.scale.tolist() == [[-0.5]]
    assert packed.codes[0, :3].tolist() == [0 | 6 << 4, 15 | 8 << 4, 8 | 8 << 4]
    assert packed.whole()[0, :4].tolist() == [4.0, 1.0, -3.5, 0.0]
    assert (packed.shape, packed.nbytes) == ((1, 32), 16 + 2)


def test_levels_of_nf4_are_kept() -> None:
    row = torch.tensor([[2.0 * level for level in NF4] * 4])
    packed = pack(row, SCHEMES["nf4-64"])
    assert packed.codes[0, :8].tolist() == [2 * i | (2 * i + 1) << 4 for i in range(8)]
    assert torch.equal(packed.whole(), row)


def test_a_group_from_its_least_to_its_largest_by_hand() -> None:
    # From -1 to 6.5 in 15 steps of 0.5; 0.2 is 2.4 steps up, and 6.3 is 14.6.
    row = torch.tensor([[6.5, -1.0, 0.2, 6.3, *[-1.0] * 28]])
    for name, least in (("uint4-32", torch.float32), ("q4_1", torch.float16)):
        packed = pack(row, SCHEMES[name])
        assert packed.least is not None
        assert (packed.scale.tolist(), packed.least.tolist()) == ([[0.5]], [[-1.0]])
        assert packed.least.dtype == least
        assert packed.codes[0, :3].tolist() == [15 | 0 << 4, 2 | 15 << 4, 0]
        assert packed.whole()[0, :5].tolist() == [6.5, -1.0, 0.0, 6.5, -1.0]
        assert packed.nbytes == 16 + 2 + least.itemsize


@given(st.sampled_from(sorted(SCHEMES)), st.integers(0, 2**32 - 1), st.floats(1e-3, 1e3))
def test_no_number_moves_far(name: str, seed: int, size: float) -> None:
    scheme = SCHEMES[name]
    weight = torch.randn(3, 256, generator=torch.Generator().manual_seed(seed)) * size
    moved = (pack(weight, scheme).whole() - weight).abs()
    largest = weight.view(3, -1, scheme.group or 256).abs().amax(-1, keepdim=True)
    # int8: half a step. int4: on the far side the range ends at 7 of 8 steps, a whole one short;
    # nf4: half of the widest gap, 0.3038. Either scale is itself rounded by 2^-9 of it.
    # uint4: half of a 15th of at most twice the largest, which its ends are rounded in.
    most = {"int8": 0.5 / 127, "int4": 1 / 8, "nf4": 0.152, "uint4": 1 / 15}[scheme.kind]
    most += 2**-8 if scheme.group else 0
    assert float((moved.view(3, -1, scheme.group or 256) / largest).max()) <= most * 1.0001


@pytest.mark.parametrize("name", [name for name in SCHEMES if name not in ("int8", "nf4-64-wide")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_c_unpacks_the_same_bits(name: str, dtype: torch.dtype) -> None:
    scheme = SCHEMES[name]
    if not native.unpacks(scheme, torch.device("cpu"), dtype):
        pytest.skip("installed without a C compiler")
    torch.manual_seed(0)
    packed = pack(torch.randn(5, 256), scheme)
    every = torch.arange(256, dtype=torch.uint8).repeat(5, 1) + torch.tensor(
        [[0], [128], [0], [64], [9]]
    )
    bytes_of_codes = every.to(torch.uint8)[:, : packed.codes.shape[1]].contiguous()
    for one in (packed, replace(packed, codes=bytes_of_codes.view(packed.codes.dtype))):
        out = torch.empty(one.shape, dtype=dtype)
        native.unpack(one, out)
        whole = one.whole(dtype)
        kind = torch.int32 if dtype == torch.float32 else torch.int16
        assert torch.equal(out.view(kind), whole.view(kind))  # signs of zeros, too
    with pytest.raises(TypeError):
        native.unpack(packed, torch.empty(256, 5).t())


def test_mistakes_are_named() -> None:
    with pytest.raises(ModelError, match="format 'int3': expected one of int8, int4-32, int4-64"):
        scheme_of("int3")
    assert (scheme_of("int4"), scheme_of("nf4")) == (SCHEMES["int4-32"], SCHEMES["nf4-64"])
    with pytest.raises(ConfigError, match="rows of 48 numbers are not whole groups of 32"):
        pack(torch.ones(2, 48), SCHEMES["int4-32"])
    with pytest.raises(ModelError, match="a weight is too large for q8_0"):
        pack(torch.full((1, 32), 1e9), SCHEMES["q8_0"])
    with pytest.raises(ModelError, match="not finite"):
        pack(torch.tensor([[float("nan")]]), SCHEMES["int8"])
