"""Hidden states of the fused blocks against transformers'."""

from pathlib import Path

import pytest
import torch
from fused_models import CPU, IRREGULAR, TEXT, Sizes, fused, padded_hidden, reference, tokens
from torch import Tensor

from fedloom.backbones.base import Packing
from fedloom.backbones.fused import FusedBackbone, load_fused
from fedloom.backbones.norm import frozen_norm
from fedloom.backbones.packing import Read, pack, pack_images


def all_states(backbone: FusedBackbone, packing: Packing) -> Tensor:
    hidden = backbone.run(backbone.embed(packing), packing)
    return hidden if backbone.final is None else frozen_norm(backbone.final, hidden)


@pytest.mark.parametrize("buckets", [True, False])
@pytest.mark.parametrize("family", TEXT)
def test_irregular_lengths_equal_transformers(family: str, buckets: bool, tmp_path: Path) -> None:
    model, examples = reference(family), tokens(IRREGULAR)
    ours = all_states(fused(model, tmp_path), pack(examples, read=None, buckets=buckets))
    for client, mine in zip(examples, ours, strict=True):
        theirs = padded_hidden(model, client)
        torch.testing.assert_close(mine[: len(theirs)], theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", TEXT)
def test_regular_lengths_equal_transformers(family: str, tmp_path: Path) -> None:
    model, examples = reference(family), tokens(((6, 6), (6, 6), (6, 6)))
    packing = pack(examples, read="first")
    assert packing.regular
    ours = all_states(fused(model, tmp_path), packing)
    theirs = torch.stack([padded_hidden(model, client) for client in examples])
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_images_equal_transformers(tmp_path: Path) -> None:
    model = reference("vit")
    backbone = fused(model, tmp_path)
    pixels = torch.randn(2, 3, 3, 12, 12)
    packing = pack_images(2, 3, 1 + backbone.shape.patches)
    hidden = backbone.run(backbone.embed_images(pixels, packing), packing)
    ours = backbone.finish(hidden, packing, "first")
    theirs = model(pixels.flatten(0, 1)).last_hidden_state[:, 0].view(2, 3, -1)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", TEXT)
@pytest.mark.parametrize("read", ["first", "last"])
@pytest.mark.parametrize("sizes", [IRREGULAR, ((4, 4), (4, 4))])
def test_trim_equals_untrimmed(family: str, read: Read, sizes: Sizes, tmp_path: Path) -> None:
    backbone = fused(reference(family), tmp_path)
    packing = pack(tokens(sizes), read=read)
    hidden = backbone.embed(packing)
    trimmed = backbone.run(hidden, packing, trim=True)
    ours = backbone.finish(trimmed, packing, read or "first", trimmed=True)
    whole = backbone.finish(backbone.run(hidden, packing), packing, read or "first")
    real = torch.cat([grid.rows for grid in packing.grids])
    torch.testing.assert_close(ours.flatten(0, 1)[real], whole.flatten(0, 1)[real])


@pytest.mark.parametrize("family", [*TEXT, "vit"])
def test_bfloat16_is_near_float32(family: str, tmp_path: Path) -> None:
    """Eight bits of mantissa through two blocks: within 3 % of the largest entry."""
    model = reference(family)
    exact = fused(model, tmp_path)
    rough = load_fused(tmp_path, dtype=torch.bfloat16, device=CPU)
    if family == "vit":
        packing = pack_images(2, 2, 10)
        pixels = torch.randn(2, 2, 3, 12, 12)
        starts = [b.embed_images(pixels, packing) for b in (exact, rough)]
    else:
        packing = pack(tokens(IRREGULAR), read=None)
        starts = [b.embed(packing) for b in (exact, rough)]
    a, b = (m.run(h, packing) for m, h in zip((exact, rough), starts, strict=True))
    assert b.dtype == torch.bfloat16
    assert (a - b.float()).abs().max() < 0.03 * a.abs().max()


def test_mean_pooling_averages_each_example(tmp_path: Path) -> None:
    model, examples = reference("llama"), tokens(IRREGULAR)
    backbone = fused(model, tmp_path)
    packing = pack(examples, read=None)
    ours = backbone.finish(backbone.run(backbone.embed(packing), packing), packing, "mean")
    for c, client in enumerate(examples):
        for e, example in enumerate(client):
            theirs = padded_hidden(model, [example]).mean(0)
            torch.testing.assert_close(ours[c, e], theirs, atol=1e-5, rtol=1e-5)
    assert not ours[1, 1:].any()  # the second client has one example


def test_pooler_equals_transformers(tmp_path: Path) -> None:
    model, examples = reference("bert"), tokens(((6, 6), (6, 6)))
    backbone = fused(model, tmp_path)
    packing = pack(examples, read="first")
    hidden = backbone.run(backbone.embed(packing), packing, trim=True)
    ours = backbone.pool_first(backbone.finish(hidden, packing, "first", trimmed=True))
    assert packing.ids is not None
    theirs = model(input_ids=packing.ids.view(4, 6)).pooler_output.view(2, 2, -1)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
