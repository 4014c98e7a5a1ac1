"""Gradients of the fused blocks against autograd through transformers' modules."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from fused_models import (
    CPU,
    IRREGULAR,
    REGULAR,
    TEXT,
    Examples,
    Lora,
    Sizes,
    close,
    fused,
    hook_lora,
    loras,
    padded_hidden,
    reference,
    tokens,
    weigh,
)
from torch import Tensor

from fedloom.backbones.base import Packing, Site
from fedloom.backbones.fused import FusedBackbone, load_fused
from fedloom.backbones.norm import frozen_norm
from fedloom.backbones.packing import Read, pack, pack_images


def sites(adapters: Mapping[str, Lora]) -> dict[str, Site]:
    return {name: Site(after=adapter) for name, adapter in adapters.items()}


def descend(backbone: FusedBackbone, packing: Packing, sizes: Sizes, **run: Any) -> None:
    """Backpropagate the sum of all clients' losses."""
    hidden = backbone.run(backbone.embed(packing), packing, **run)
    if backbone.final is not None:
        hidden = frozen_norm(backbone.final, hidden)
    losses = [weigh(hidden[c, : sum(client)]) for c, client in enumerate(sizes)]
    torch.autograd.backward(torch.stack(losses).sum())


def plain(
    model: Any, examples: Examples, adapters: Mapping[str, Lora], client: int
) -> dict[str, tuple[Tensor, Tensor]]:
    """One client's gradients by autograd through the model and LoRA hooks."""
    leaves = {
        name: (lora.a[client].clone().requires_grad_(), lora.b[client].clone().requires_grad_())
        for name, lora in adapters.items()
    }
    hooks = hook_lora(model, leaves)
    loss = weigh(padded_hidden(model, examples[client]))
    flat = [leaf for pair in leaves.values() for leaf in pair]
    grads = torch.autograd.grad(loss, flat)
    for hook in hooks:
        hook.remove()
    return dict(zip(leaves, zip(grads[::2], grads[1::2], strict=True), strict=True))


def compare(model: Any, examples: Examples, adapters: Mapping[str, Lora]) -> None:
    for client in range(len(examples)):
        for name, (a, b) in plain(model, examples, adapters, client).items():
            close(adapters[name].grads["a"][client], a, name)
            close(adapters[name].grads["b"][client], b, name)


@pytest.mark.parametrize("buckets", [True, False])
@pytest.mark.parametrize("sizes", [IRREGULAR, REGULAR, IRREGULAR[:1]])
@pytest.mark.parametrize("family", TEXT)
def test_lora_on_every_linear(family: str, sizes: Sizes, buckets: bool, tmp_path: Path) -> None:
    model, examples = reference(family), tokens(sizes)
    backbone = fused(model, tmp_path)
    adapters = loras(backbone, len(sizes))
    packing = pack(examples, read=None, buckets=buckets)
    descend(backbone, packing, sizes, sites=sites(adapters))
    compare(model, examples, adapters)


@pytest.mark.parametrize("family", TEXT)
def test_lora_on_one_linear_above_a_frozen_prefix(family: str, tmp_path: Path) -> None:
    """Whatever lies below the only adapter is skipped, which must not change its gradient."""
    model, examples = reference(family), tokens(REGULAR[:1])
    backbone = fused(model, tmp_path)
    packing = pack(examples, read=None)
    for name, adapter in loras(backbone, 1).items():
        descend(backbone, packing, REGULAR[:1], sites=sites({name: adapter}))
        compare(model, examples, {name: adapter})


@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt2"])
def test_gradient_to_the_first_hidden_states(family: str, tmp_path: Path) -> None:
    model, examples = reference(family), tokens(((7,),))
    backbone = fused(model, tmp_path)
    packing = pack(examples, read=None)
    start = backbone.embed(packing).requires_grad_()
    hidden = backbone.run(start, packing)
    assert backbone.final is not None
    loss = weigh(frozen_norm(backbone.final, hidden)[0])
    words = model.get_input_embeddings()(packing.ids).requires_grad_()
    theirs = weigh(model(inputs_embeds=words).last_hidden_state[0])
    close(torch.autograd.grad(loss, start)[0], torch.autograd.grad(theirs, words)[0])


@pytest.mark.parametrize("read", ["first", "last"])
@pytest.mark.parametrize("sizes", [IRREGULAR, REGULAR])
@pytest.mark.parametrize("family", TEXT)
def test_trim_has_the_untrimmed_gradient(
    family: str, sizes: Sizes, read: Read, tmp_path: Path
) -> None:
    backbone = fused(reference(family), tmp_path)
    packing = pack(tokens(sizes), read=read)
    real = torch.cat([grid.rows for grid in packing.grids])
    grads = []
    for trim in (False, True):
        adapters = loras(backbone, len(sizes))
        start = backbone.embed(packing)
        hidden = backbone.run(start, packing, sites=sites(adapters), trim=trim)
        pooled = backbone.finish(hidden, packing, read or "first", trimmed=trim)
        torch.autograd.backward(weigh(pooled.flatten(0, 1)[real]))
        grads.append({name: adapter.grads for name, adapter in adapters.items()})
    for name, whole in grads[0].items():
        close(grads[1][name]["a"], whole["a"], name)
        close(grads[1][name]["b"], whole["b"], name)


def test_images(tmp_path: Path) -> None:
    model = reference("vit")
    backbone = fused(model, tmp_path)
    adapters = loras(backbone, 2)
    pixels, packing = torch.randn(2, 3, 3, 12, 12), pack_images(2, 3, 10)
    start = backbone.embed_images(pixels, packing)
    hidden = backbone.run(start, packing, sites=sites(adapters), trim=True)
    pooled = backbone.finish(hidden, packing, "first", trimmed=True)
    torch.autograd.backward(weigh(pooled[0]) + weigh(pooled[1]))
    for client in range(2):
        leaves = {
            name: (lora.a[client].clone().requires_grad_(), lora.b[client].clone().requires_grad_())
            for name, lora in adapters.items()
        }
        hooks = hook_lora(model, leaves)
        loss = weigh(model(pixels[client]).last_hidden_state[:, 0])
        torch.autograd.backward(loss)
        for hook in hooks:
            hook.remove()
        for name, (a, b) in leaves.items():
            assert a.grad is not None
            assert b.grad is not None
            close(adapters[name].grads["a"][client], a.grad, name)
            close(adapters[name].grads["b"][client], b.grad, name)


@pytest.mark.parametrize("family", TEXT)
def test_bfloat16_gradients_point_the_same_way(family: str, tmp_path: Path) -> None:
    """Cosine above 0.99 with float32 for all gradients together."""
    exact = fused(reference(family), tmp_path)
    rough = load_fused(tmp_path, dtype=torch.bfloat16, device=CPU)
    packing = pack(tokens(REGULAR), read=None)
    flat = []
    for backbone in (exact, rough):
        adapters = {
            name: Lora(lora.a.to(backbone.dtype), lora.b.to(backbone.dtype))
            for name, lora in loras(exact, 3).items()
        }
        descend(backbone, packing, REGULAR, sites=sites(adapters))
        parts = [g.flatten().float() for lora in adapters.values() for g in lora.grads.values()]
        flat.append(torch.cat(parts))
    assert torch.cosine_similarity(flat[0], flat[1], dim=0) > 0.99


def test_attachments_run_without_gradients(tmp_path: Path) -> None:
    backbone = fused(reference("bert"), tmp_path)
    adapters, packing = loras(backbone, 3), pack(tokens(IRREGULAR), read=None)
    start = backbone.embed(packing)
    trained = backbone.run(start, packing, sites=sites(adapters))
    with torch.no_grad():
        evaluated = backbone.run(start, packing, sites=sites(adapters))
    assert trained.requires_grad
    assert not evaluated.requires_grad
    assert torch.equal(trained, evaluated)


def test_frozen_blocks_build_no_graph(tmp_path: Path) -> None:
    backbone = fused(reference("bert"), tmp_path)
    packing = pack(tokens(IRREGULAR), read=None)
    assert not backbone.run(backbone.embed(packing), packing).requires_grad


def test_blocks_run_piece_by_piece(tmp_path: Path) -> None:
    backbone = fused(reference("qwen2"), tmp_path)
    packing = pack(tokens(IRREGULAR), read=None)
    start = backbone.embed(packing)
    below = backbone.run(start, packing, last=1)
    assert torch.equal(backbone.run(below, packing, first=1), backbone.run(start, packing))
