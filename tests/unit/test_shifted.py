"""Scales and least values that were trained: the codes stay, and nothing is rounded but sums."""

import pytest
import torch
from torch import Tensor

from fedloom.backbones.formats import SCHEMES
from fedloom.backbones.schemes import Packed, pack
from fedloom.backbones.shifted import raised, rescaled
from fedloom.core.errors import ConfigError

NAMES = [name for name, scheme in SCHEMES.items() if not scheme.wide]


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def groups(packed: Packed) -> Tensor:
    """What scales multiply, ``[d_out, groups, group]``, float64."""
    ones = torch.ones_like(packed.scale)
    least = None if packed.least is None else torch.zeros_like(packed.least)
    plain = Packed(packed.scheme, packed.codes, ones, least).whole(torch.float64)
    return plain.view(len(plain), -1, packed.scheme.group or plain.shape[1])


@pytest.mark.parametrize("name", NAMES)
def test_scales_have_their_change_added(name: str) -> None:
    packed = pack(drawn(6, 256), SCHEMES[name])
    change = 1e-3 * drawn(*packed.scale.shape, seed=1)
    found = rescaled(packed, change)
    assert torch.equal(found.codes, packed.codes)
    assert torch.equal(found.scale, packed.scale.float() + change)
    assert found.scheme.name == name if name == "int8" else found.scheme.name.endswith("-wide")
    assert SCHEMES[found.scheme.name] == found.scheme
    # Float64 holds products of a code and a float32 scale.
    expected = found.scale.double().view(6, -1, 1) * groups(packed)
    if packed.least is not None:
        expected = expected + packed.least.double()[..., None]
    assert torch.equal(found.whole(torch.float64), expected.flatten(1))
    again = rescaled(found, None)
    assert again.scheme == found.scheme
    assert torch.equal(rescaled(packed, None).whole(), packed.whole())


@pytest.mark.parametrize("name", [name for name in NAMES if "int4" in name or name[:3] == "q4_"])
def test_groups_have_a_number_added(name: str) -> None:
    packed = pack(drawn(6, 256), SCHEMES[name])
    change = 1e-3 * drawn(*packed.scale.shape, seed=1)
    found, least = raised(packed, change), packed.least
    assert torch.equal(found.codes, packed.codes)
    assert torch.equal(found.scale.float(), packed.scale.float())
    before = -8 * packed.scale.float() if least is None else least.float()
    assert found.least is not None
    assert torch.equal(found.least, before + change)
    assert torch.equal(raised(packed, None).whole(), packed.whole())  # every bit of it
    moved = (found.whole(torch.float64) - packed.whole(torch.float64)).view(
        6, -1, packed.scheme.group
    )
    torch.testing.assert_close(
        moved, change.double()[..., None].expand_as(moved), rtol=0, atol=2e-7 * 8
    )


@pytest.mark.parametrize("name", ["int8", "nf4-64", "q8_0"])
def test_formats_without_4_bit_integers_take_none(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name} takes no number for each group"):
        raised(pack(drawn(2, 64), SCHEMES[name]), None)
