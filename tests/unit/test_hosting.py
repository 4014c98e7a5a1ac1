"""Blocks that a stage reads, keeps and measures."""

from pathlib import Path

import pytest
import torch
from fused_models import CPU, fused, reference

from fedloom.backbones.embedding import Embedding
from fedloom.backbones.kernels.dequantize import Dequantized
from fedloom.backbones.lengths import Lengths, packing_of
from fedloom.core.errors import ConfigError, SplitError
from fedloom.server.hosting import blocks_per_second, hosted

PACKING = packing_of(Lengths(((4,),), None))
HIDDEN = torch.ones(1, 4, 32)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    fused(reference("gpt2"), tmp_path)
    return tmp_path


def test_only_what_is_served_is_held(folder: Path) -> None:
    found = hosted(folder, 1, 2, dtype=torch.float32, device=CPU)
    small = hosted(folder, 1, 2, dtype=torch.float32, device=CPU, bits=8)
    # Products of 96 x 32, 32 x 32, 48 x 32 and 32 x 48 with as many biases as rows; two norms.
    weights, rows, norms = 96 * 32 + 32 * 32 + 2 * 48 * 32, 96 + 32 + 48 + 32, 2 * 2 * 32
    assert found.nbytes == 4 * (weights + rows + norms)
    assert small.nbytes == weights + 4 * (2 * rows + norms)
    assert (found.bits, small.bits, found.depth) == (32, 8, 2)
    assert found.weights == small.weights
    assert len(found.host.backbone.layers) == 1
    products = small.host.backbone.layers[0].products
    assert all(isinstance(product.weight, Dequantized) for product in products)
    embedding = found.host.backbone.embedding
    assert isinstance(embedding, Embedding)
    assert embedding.table().is_meta


@pytest.mark.parametrize("bits", [3, 4, -8, 16])
def test_bits_that_weights_are_not_kept_in(folder: Path, bits: int) -> None:
    with pytest.raises(ConfigError, match=f"bits = {bits}: expected 8"):
        hosted(folder, 0, 1, dtype=torch.float32, device=CPU, bits=bits)


def test_the_quickest_pass_counts(folder: Path) -> None:
    found = hosted(folder, 0, 2, dtype=torch.float32, device=CPU)
    # Passes of 4 and 2 s, and no further one after them. Half of 2 s is a call, of 2 blocks.
    times = iter([0.0, 0.0, 4.0, 4.0, 6.0, 6.0])
    assert blocks_per_second(found, clock=lambda: next(times), seconds=1.0) == 2.0
    assert not found.host.held_bytes


def test_the_oldest_step_is_let_go_beyond_the_bound(folder: Path) -> None:
    host = hosted(folder, 0, 2, dtype=torch.float32, device=CPU).host
    host.most = 2 * HIDDEN.nbytes
    part = host.part(1, 2)
    for step, to in ((1, host), (2, part), (3, host)):
        to.forward("a", step, HIDDEN, PACKING, train=True)
    assert host.held_bytes == host.most
    with pytest.raises(SplitError, match="step 1: not held"):
        host.backward("a", 1, HIDDEN)
    assert torch.isfinite(part.backward("a", 2, HIDDEN)).all()
    host.evict("a")
    assert part.held_bytes == 0
