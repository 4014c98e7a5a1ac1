"""Some blocks of a backbone, read without the others."""

from pathlib import Path

import pytest
import torch
from fused_models import CPU, TEXT, fused, reference, tokens
from torch import Tensor

from fedloom.backbones.fused import load_fused
from fedloom.backbones.packing import pack

LOWER, UPPER = {"embeddings", "layer.0"}, {"layer.1", "final", "head"}


@pytest.mark.parametrize("family", TEXT)
def test_two_portions_run_as_the_whole_does(family: str, tmp_path: Path) -> None:
    whole = fused(reference(family), tmp_path)
    lower, upper = (
        load_fused(tmp_path, dtype=torch.float32, device=CPU, held=held) for held in (LOWER, UPPER)
    )
    packing = pack(tokens(((5, 9, 2), (7,))), read=None)
    between = lower.run(lower.embed(packing), packing, last=1)
    assert torch.equal(
        upper.run(between, packing, first=1), whole.run(whole.embed(packing), packing)
    )
    for hollow in (lower.layers[1], upper.layers[0]):
        weight = hollow.products[0].weight
        assert isinstance(weight, Tensor)
        assert weight.is_meta
    assert lower.linears == whole.linears == upper.linears  # adapters are named and shaped alike


def test_a_tied_head_brings_the_embedding_that_it_is(tmp_path: Path) -> None:
    fused(reference("gpt2"), tmp_path)
    upper = load_fused(tmp_path, dtype=torch.float32, device=CPU, held=UPPER)
    assert upper.head is not None
    assert isinstance(upper.head.weight, torch.Tensor)
    assert not upper.head.weight.is_meta
    lower = load_fused(tmp_path, dtype=torch.float32, device=CPU, held=LOWER)
    assert lower.head is None
