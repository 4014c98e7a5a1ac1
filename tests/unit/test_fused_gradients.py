"""Gradients of the fused blocks against autograd through transformers' modules."""

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from fused_models import (
    TEXT,
    Lora,
    fused,
    lora,
    lora_hooks,
    padded_hidden,
    reference,
    tokens,
)
from torch import Tensor, nn

from fedloom.backbones.base import Packing, Site
from fedloom.backbones.fused import FusedBackbone
from fedloom.backbones.norm import frozen_norm
from fedloom.backbones.packing import pack

SIZES = ((5, 9, 2), (7,), (1, 3, 12, 4))
REGULAR = ((6, 6), (6, 6), (6, 6))


def attach(backbone: FusedBackbone, clients: int) -> dict[str, Lora]:
    return {
        linear.name: lora(clients, linear.d_in, linear.d_out, seed)
        for seed, linear in enumerate(backbone.linears)
    }


def sites(adapters: Mapping[str, Lora]) -> dict[str, Site]:
    return {name: Site(after=adapter) for name, adapter in adapters.items()}


def weigh(hidden: Tensor) -> Tensor:
    """A fixed sum of hidden states ``[n, d]`` that gives every entry its own gradient."""
    n, d = hidden.shape
    weights = torch.linspace(-1, 1, d) + torch.linspace(-0.5, 0.7, n)[:, None]
    return (hidden * weights).sum()


def ours(backbone: FusedBackbone, packing: Packing, sizes: list[int], **run: object) -> None:
    hidden = backbone.run(backbone.embed(packing), packing, **run)  # type: ignore[arg-type]
    if backbone.final is not None:
        hidden = frozen_norm(backbone.final, hidden)
    losses = [weigh(hidden[c, :size]) for c, size in enumerate(sizes)]
    torch.stack(losses).sum().backward()


def theirs(
    model: nn.Module, examples: list[object], adapters: Mapping[str, Lora], client: int
) -> dict[str, tuple[Tensor, Tensor]]:
    leaves = {
        name: (lora.a[client].clone().requires_grad_(), lora.b[client].clone().requires_grad_())
        for name, lora in adapters.items()
    }
    hooks = lora_hooks(model, leaves)
    weigh(padded_hidden(model, examples[client])).backward()  # type: ignore[arg-type]
    for hook in hooks:
        hook.remove()  # type: ignore[attr-defined]
    return {name: (a.grad, b.grad) for name, (a, b) in leaves.items()}  # type: ignore[misc]


@pytest.mark.parametrize("sizes", [SIZES, REGULAR, SIZES[:1]])
@pytest.mark.parametrize("family", TEXT)
def test_lora_on_every_linear(
    family: str, sizes: tuple[tuple[int, ...], ...], tmp_path: Path
) -> None:
    model, examples = reference(family), tokens(sizes)
    backbone = fused(model, tmp_path)
    adapters = attach(backbone, len(sizes))
    packing = pack(examples, read=None)
    ours(backbone, packing, [sum(client) for client in sizes], sites=sites(adapters))
    for client in range(len(sizes)):
        expected = theirs(model, examples, adapters, client)  # type: ignore[arg-type]
        for name, (a, b) in expected.items():
            for mine, other in ((adapters[name].grads["a"], a), (adapters[name].grads["b"], b)):
                scale = float(other.abs().max())
                torch.testing.assert_close(
                    mine[client], other, atol=1e-5 * scale, rtol=1e-4, msg=lambda m, n=name: n + m
                )
