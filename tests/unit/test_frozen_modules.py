"""Frozen tensors as transformers shapes them, whatever they are kept in."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from fused_models import TEXT, fused, reference

from fedloom.backbones.kernels.buffer import Buffer
from fedloom.backbones.kernels.rounding import rounded
from fedloom.tuning.frozen import FrozenModules


@pytest.mark.parametrize("family", [*TEXT, "vit"])
def test_they_are_the_models_own(family: str, tmp_path: Path) -> None:
    model = reference(family)
    backbone = fused(model, tmp_path)
    frozen = FrozenModules(backbone)
    for module in (*backbone.linears, *backbone.norms):
        own, found = model.get_submodule(module.name), frozen.of(module.name)
        assert torch.equal(found.weight, own.weight)
        bias = getattr(own, "bias", None)
        assert (found.bias is None) == (bias is None)
        if found.bias is not None and bias is not None:
            assert torch.equal(found.bias, bias)
        assert (found.eps is not None) == (module in backbone.norms)
        assert found.centred == (found.eps is None or family not in ("llama", "qwen2"))


def test_weights_of_fewer_bits_are_those_that_are_multiplied_with(tmp_path: Path) -> None:
    backbone = fused(reference("bert"), tmp_path)
    rough = replace(backbone, layers=tuple(rounded(b, Buffer()) for b in backbone.layers))
    exact, found = FrozenModules(backbone), FrozenModules(rough)
    for linear in backbone.linears:
        weight, near = exact.of(linear.name).weight, found.of(linear.name).weight
        # Rounded to a multiple of a 127th of a row's largest magnitude.
        assert ((weight - near).abs() <= weight.abs().amax(1, keepdim=True) / 250).all()
        assert not torch.equal(weight, near)


def test_a_module_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(KeyError, match="nowhere"):
        FrozenModules(fused(reference("bert"), tmp_path)).of("nowhere")
