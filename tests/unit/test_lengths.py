import dataclasses

import numpy as np
import pytest
import torch

from fedloom.backbones.base import Packing
from fedloom.backbones.lengths import Lengths, as_one, lengths_of, packing_of
from fedloom.backbones.packing import Read, pack, pack_images


def same(found: Packing, expected: Packing) -> None:
    for field in dataclasses.fields(Packing):
        a, b = getattr(found, field.name), getattr(expected, field.name)
        if field.name == "ids":
            assert a is None
        elif isinstance(b, torch.Tensor):
            assert torch.equal(a, b)
        elif field.name == "grids":
            for one, other in zip(a, b, strict=True):
                assert torch.equal(one.index, other.index)
                assert torch.equal(one.rows, other.rows)
                assert (one.mask is None) == (other.mask is None)
                assert one.mask is None or torch.equal(one.mask, other.mask)
        else:
            assert a == b


@pytest.mark.parametrize("read", ["first", "last", None])
@pytest.mark.parametrize(
    "tokens", [((5, 2, 9), (3,), (1, 1)), ((4, 4), (4, 4)), ((1,),), ((7, 8, 3, 1),)]
)
def test_lengths_make_the_packing_again(tokens: tuple[tuple[int, ...], ...], read: Read) -> None:
    ids = [[np.arange(1, n + 1, dtype=np.int32) for n in own] for own in tokens]
    packing = pack(ids, read=read)
    found = lengths_of(packing)
    assert found.tokens == tokens
    same(packing_of(found), packing)


def test_images_are_examples_of_one_length() -> None:
    packing = pack_images(2, 3, 5)
    assert lengths_of(packing) == Lengths(((5, 5, 5), (5, 5, 5)), "first")
    same(packing_of(lengths_of(packing)), packing)


def test_sizes_of_packed_hidden_states() -> None:
    lengths = Lengths(((5, 2), (3, 1, 1)), None)
    assert (lengths.longest, lengths.most) == (7, 3)


def test_all_clients_as_one_lie_in_the_same_places() -> None:
    # Clients of 7 and 5 tokens, the second padded with two: one of 14.
    packing = packing_of(Lengths(((5, 2), (5,)), "last"))
    one = as_one(packing)
    assert (one.clients, one.length, one.examples) == (1, 14, 4)
    assert one.read is not None
    assert one.read.tolist() == [[4, 6, 11, 7]]
    assert one.positions.tolist() == [[0, 1, 2, 3, 4, 0, 1, 0, 1, 2, 3, 4, 0, 0]]
    assert torch.equal(one.back, packing.back)
    assert as_one(one) is one
