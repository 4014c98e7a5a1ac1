"""Attachments at inputs, at norms, and out of place, against autograd through transformers."""

from pathlib import Path
from typing import Any

import pytest
import torch
from fused_models import (
    IRREGULAR,
    TEXT,
    Scale,
    close,
    fused,
    padded_hidden,
    reference,
    tokens,
    weigh,
)
from torch import Tensor

from fedloom.backbones.base import Site
from fedloom.backbones.fused import FusedBackbone
from fedloom.backbones.norm import frozen_norm
from fedloom.backbones.packing import pack


def scales(backbone: FusedBackbone, before: bool) -> dict[str, Scale]:
    generator = torch.Generator().manual_seed(3)
    modules = (*backbone.linears, *backbone.norms)
    return {
        m.name: Scale(1 + 0.2 * torch.randn(3, m.d_in if before else m.d_out, generator=generator))
        for m in modules
    }


def hook(model: Any, name: str, scale: Tensor, before: bool) -> Any:
    module = model.get_submodule(name)
    if before:
        return module.register_forward_pre_hook(lambda m, inputs: (inputs[0] * scale,))
    return module.register_forward_hook(lambda m, inputs, y: y * scale)


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("family", TEXT)
def test_scales_everywhere(family: str, before: bool, tmp_path: Path) -> None:
    model, examples = reference(family), tokens(IRREGULAR)
    backbone = fused(model, tmp_path)
    attached = scales(backbone, before)
    sites = {n: Site(before=s) if before else Site(after=s) for n, s in attached.items()}
    packing = pack(examples, read=None)
    hidden = backbone.run(backbone.embed(packing), packing, sites=sites)
    if backbone.final is not None:
        hidden = frozen_norm(backbone.final, hidden)
    losses = [weigh(hidden[c, : sum(client)]) for c, client in enumerate(IRREGULAR)]
    torch.autograd.backward(torch.stack(losses).sum())
    for client in range(3):
        leaves = {name: s.s[client].clone().requires_grad_() for name, s in attached.items()}
        hooks = [hook(model, name, leaf, before) for name, leaf in leaves.items()]
        loss = weigh(padded_hidden(model, examples[client]))
        grads = torch.autograd.grad(loss, list(leaves.values()))
        for one in hooks:
            one.remove()
        close(losses[client].detach(), loss.detach())
        for name, grad in zip(leaves, grads, strict=True):
            close(attached[name].grads["s"][client], grad, name)


@pytest.mark.parametrize("part", ["norms", "linears"])
@pytest.mark.parametrize("family", TEXT)
def test_only_the_first_module_is_attached(family: str, part: str, tmp_path: Path) -> None:
    """The lowest site of the lowest block still gets its gradient, before and after."""
    model, examples = reference(family), tokens(IRREGULAR)
    backbone = fused(model, tmp_path)
    name = (backbone.norms if part == "norms" else backbone.linears)[0].name
    for before in (True, False):
        scale = scales(backbone, before)[name]
        sites = {name: Site(before=scale) if before else Site(after=scale)}
        packing = pack(examples[:1], read=None)
        one = Scale(scale.s[:1])
        sites = {name: Site(before=one) if before else Site(after=one)}
        hidden = backbone.run(backbone.embed(packing), packing, sites=sites)
        if backbone.final is not None:
            hidden = frozen_norm(backbone.final, hidden)
        torch.autograd.backward(weigh(hidden[0]))
        leaf = scale.s[0].clone().requires_grad_()
        handle = hook(model, name, leaf, before)
        loss = weigh(padded_hidden(model, examples[0]))
        close(one.grads["s"][0], torch.autograd.grad(loss, leaf)[0], name)
        handle.remove()
