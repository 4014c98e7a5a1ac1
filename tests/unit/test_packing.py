"""Every token lies in the packing once, and every way back to it agrees."""

from typing import TypeAlias

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from fedloom.backbones.packing import Read, pack, pack_images
from fedloom.core.errors import DataError

Examples: TypeAlias = list[list[NDArray[np.int32]]]

clients = st.lists(
    st.lists(st.integers(min_value=1, max_value=20), max_size=5), min_size=1, max_size=5
).filter(any)


def numbered(sizes: list[list[int]]) -> Examples:
    """Examples in which no token occurs twice, counted from 1."""
    start, examples = 1, []
    for client in sizes:
        row = []
        for size in client:
            row.append(np.arange(start, start + size, dtype=np.int32))
            start += size
        examples.append(row)
    return examples


@given(sizes=clients, buckets=st.booleans(), last=st.booleans())
def test_every_token_lies_once(sizes: list[list[int]], buckets: bool, last: bool) -> None:
    examples = numbered(sizes)
    packing = pack(examples, read="last" if last else "first", buckets=buckets)
    ids = packing.ids
    assert ids is not None
    for row, client in zip(ids, examples, strict=True):
        flat = np.concatenate(client) if client else np.zeros(0)
        assert row[: len(flat)].tolist() == flat.tolist()
        assert not row[len(flat) :].any()
    total = sum(map(sum, sizes))
    assert packing.useful == pytest.approx(total / ids.numel())
    # The slots of all grids hold every token once.
    slots = []
    for grid in packing.grids:
        mask = torch.ones_like(grid.index, dtype=torch.bool) if grid.mask is None else grid.mask
        slots.append(ids.flatten()[grid.index] * mask)
        positions = packing.positions.flatten()[grid.index][mask]
        assert torch.equal(positions, torch.arange(mask.shape[1]).expand_as(mask)[mask])
    laid = torch.cat([s.flatten() for s in slots] + [torch.zeros(1, dtype=torch.int64)])
    assert sorted(laid[laid > 0].tolist()) == list(range(1, total + 1))
    # Gathering the slots by `back` gives the packed tokens again, zeros at padding.
    assert torch.equal(laid[packing.back], ids.flatten())
    # Each row is the example that it says it is, and is read where it should be.
    read = packing.read
    assert read is not None
    for grid, slot in zip(packing.grids, slots, strict=True):
        for row, tokens in zip(grid.rows.tolist(), slot, strict=True):
            example = examples[row // packing.examples][row % packing.examples]
            assert tokens[: len(example)].tolist() == example.tolist()
            at = int(read.flatten()[row])
            assert int(ids.flatten()[at]) == example[-1 if last else 0]


@given(sizes=clients)
def test_buckets_hold_lengths_within_a_factor_of_two(sizes: list[list[int]]) -> None:
    for grid in pack(numbered(sizes), read=None).grids:
        lengths = [grid.index.shape[1]] if grid.mask is None else grid.mask.sum(1).tolist()
        assert max(lengths) == grid.index.shape[1]
        assert max(lengths) < 2 * min(lengths)


@given(sizes=clients)
def test_regular_means_in_order(sizes: list[list[int]]) -> None:
    packing = pack(numbered(sizes), read=None)
    slots = torch.cat([grid.index.flatten() for grid in packing.grids])
    ordered = torch.equal(slots, torch.arange(packing.clients * packing.length))
    full = all(grid.mask is None for grid in packing.grids)
    even = len({len(client) for client in sizes}) == 1 and len(packing.grids) == 1
    assert packing.regular == (ordered and full and even)


@pytest.mark.parametrize("read", ["first", "last", None])
def test_images_are_text_of_one_length(read: Read) -> None:
    images = pack_images(2, 3, 5, read=read)
    text = pack(numbered([[5, 5, 5], [5, 5, 5]]), read=read)
    assert images.ids is None
    assert images.regular
    assert torch.equal(images.positions, text.positions)
    assert torch.equal(images.grids[0].index, text.grids[0].index)
    assert torch.equal(images.back, text.back)
    if read is not None:
        assert images.read is not None
        assert text.read is not None
        assert torch.equal(images.read, text.read)


def test_a_client_without_examples_reads_its_own_first_place() -> None:
    packing = pack([[np.array([7, 8], np.int32)], []], read="last")
    assert packing.read is not None
    assert packing.read.tolist() == [[1], [2]]
    assert packing.useful == 0.5


@pytest.mark.parametrize("examples", [[], [[], []], [[np.zeros(0, np.int32)]]])
def test_refuses_nothing_to_pack(
    examples: Examples,
) -> None:
    with pytest.raises(DataError, match="at least one token"):
        pack(examples, read=None)


def test_the_token_of_an_id_is_read_where_it_is() -> None:
    # clients of two and of one example: places 1 and 0 of the first, 2 of the second
    packing = pack([[np.array([5, 9, 5]), np.array([9])], [np.array([4, 4, 9])]], read=9)
    assert packing.read is not None
    assert packing.read.tolist() == [[1, 3], [4 + 2, 4]]  # a missing example: the first place


@pytest.mark.parametrize("examples", [[[1, 9], [1, 2]], [[9, 9], [1, 2]], [[9, 9], [9, 2]]])
def test_an_example_without_the_token_once_is_refused(examples: list[list[int]]) -> None:
    arrays = [np.array(one, np.int32) for one in examples]
    with pytest.raises(DataError, match="an example does not hold token 9 once"):
        pack([arrays], read=9)


def test_padded_to_a_multiple() -> None:
    """Clients of 5 + 6 and 3 tokens: L is 16, and grids of 3, and of 5 and 6, are 16 slots long."""
    examples = numbered([[5, 6], [3]])
    packing, plain = pack(examples, read="last", multiple=16), pack(examples, read="last")
    assert (packing.length, plain.length) == (16, 11)
    assert all(grid.index.shape[1] == 16 for grid in packing.grids)
    assert packing.ids is not None
    assert plain.ids is not None
    assert torch.equal(packing.ids[:, :11], plain.ids)
    assert not packing.ids[:, 11:].any()
    assert packing.read is not None
    assert plain.read is not None
    assert torch.equal(packing.ids.flatten()[packing.read], plain.ids.flatten()[plain.read])
    for grid in packing.grids:
        assert grid.mask is not None
        told = packing.ids.flatten()[grid.index][grid.mask]
        assert (told > 0).all()
    assert not pack(numbered([[8], [8]]), read=None, multiple=16).regular
    assert pack(numbered([[8], [8]]), read=None, multiple=8).regular
