"""What stands in the way of bitsandbytes' layers is said in a line."""

import importlib.util
from importlib.machinery import ModuleSpec

import pytest
import torch
from torch import nn

from fedloom.backbones.four_bit import asks_four_bit, dense_of, store_layers, stored_bytes
from fedloom.backbones.four_bit import weight_count as count
from fedloom.core.errors import ModelError
from fedloom.core.job import BackboneConfig


def installed(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """These packages and no others."""

    def find(name: str) -> ModuleSpec | None:
        return ModuleSpec(name, None) if name in names else None

    monkeypatch.setattr(importlib.util, "find_spec", find)


def layers() -> nn.Module:
    return nn.ModuleDict({"layer": nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])})


def test_who_asks_for_it() -> None:
    asked = BackboneConfig(engine="transformers", quantization="nf4")
    assert asks_four_bit(asked)
    assert not asks_four_bit(BackboneConfig(quantization="nf4"))  # the fused engine's own
    assert not asks_four_bit(BackboneConfig(engine="transformers", quantization="int4"))


def test_without_it_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch)
    with pytest.raises(ModelError, match=r"needs bitsandbytes: pip install 'fedloom\[qlora\]'"):
        store_layers(layers())


def test_code_that_would_be_downloaded_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, "bitsandbytes", "kernels")
    with pytest.raises(ModelError, match=r"downloads native code and runs it: pip uninstall"):
        store_layers(layers())


def test_a_model_without_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, "bitsandbytes")
    monkeypatch.setattr("fedloom.backbones.four_bit._library", lambda: None)
    with pytest.raises(ModelError, match="the model has no layers of linear maps"):
        store_layers(nn.ModuleDict({"head": nn.Linear(4, 4)}))


def test_weights_that_are_not_stored_are_as_they_are() -> None:
    model = layers()
    assert count(model) == 40
    assert stored_bytes(model) == 160
    linear = nn.Linear(3, 2)
    assert torch.equal(dense_of(linear), linear.weight)
