"""Losses of next words: some rows at a time they are those of all logits at once."""

from pathlib import Path

import pytest
import torch
from fused_models import CPU, config, randomise
from torch import Tensor
from torch.autograd import forward_ad
from transformers import AutoModelForCausalLM

from fedloom.backbones.fused import FusedBackbone, load_fused
from fedloom.tuning import word_losses as module
from fedloom.tuning.word_losses import word_losses


def backbone(family: str, folder: Path, dtype: torch.dtype) -> FusedBackbone:
    randomise(AutoModelForCausalLM.from_config(config(family))).save_pretrained(folder)
    return load_fused(folder, dtype=dtype, device=CPU)


def found(model: FusedBackbone, rows: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Losses, predictions and the gradient of a sum that weighs each loss."""
    leaf = rows.clone().requires_grad_()
    each, predicted = word_losses(model, leaf, target)
    (each * torch.linspace(-1, 2, len(each))).sum().backward()
    assert leaf.grad is not None
    return each.detach(), predicted, leaf.grad


@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt2"])
def test_some_rows_at_a_time_give_the_same(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = backbone(family, tmp_path, torch.float64)
    torch.manual_seed(0)
    rows, target = torch.randn(11, 32, dtype=torch.float64), torch.randint(0, 50, (11,))
    each, predicted, slope = found(model, rows, target)
    monkeypatch.setattr(module, "CHUNK", 4 * 4 * 50)  # four rows of 50 words: 4 + 4 + 3
    ours = found(model, rows, target)
    # Logits are float32 before the softmax in both.
    torch.testing.assert_close(ours[0], each, rtol=1e-6, atol=1e-6)
    assert torch.equal(ours[1], predicted)
    torch.testing.assert_close(ours[2], slope, rtol=1e-5, atol=1e-6)
    with torch.no_grad():
        again, _ = word_losses(model, rows, target)
    assert torch.equal(again, ours[0])


def test_bfloat16_is_as_close_as_it_can_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = backbone("llama", tmp_path, torch.bfloat16)
    torch.manual_seed(0)
    rows, target = torch.randn(11, 32).bfloat16(), torch.randint(0, 50, (11,))
    each, _, slope = found(model, rows, target)
    monkeypatch.setattr(module, "CHUNK", 1)  # a row at a time, however small
    ours = found(model, rows, target)
    torch.testing.assert_close(ours[0], each, rtol=1e-2, atol=1e-2)
    assert float((ours[2] - slope).float().norm() / slope.float().norm()) < 1e-2


def test_derivatives_go_through_some_rows_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = backbone("gpt2", tmp_path, torch.float64)
    torch.manual_seed(0)
    rows, along = torch.randn(2, 11, 32, dtype=torch.float64)
    target, made = torch.randint(0, 50, (11,)), []
    real = FusedBackbone.token_logits

    def counted(self: FusedBackbone, hidden: Tensor) -> Tensor:
        made.append(len(hidden))
        return real(self, hidden)

    monkeypatch.setattr(FusedBackbone, "token_logits", counted)

    def derivative() -> tuple[Tensor, Tensor, Tensor]:
        with torch.no_grad(), forward_ad.dual_level():
            each, words = word_losses(model, forward_ad.make_dual(rows, along), target)
            value, slope = forward_ad.unpack_dual(each)
            return value, slope, words

    whole = derivative()
    monkeypatch.setattr(module, "CHUNK", 16 * 4 * 50)  # four rows of 50 words
    for ours, theirs in zip(derivative(), whole, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)
    assert made == [11, 4, 4, 3]
