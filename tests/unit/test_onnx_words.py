"""Losses of next words some at a time: those of all logits at once, for any number of words."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from fedloom.backbones.onnx import words
from fedloom.backbones.onnx.matrices import Floats, Plain
from fedloom.backbones.onnx.rotations import rotations
from fedloom.backbones.onnx.words import WordHead
from fedloom.backbones.rotary import rotation

pytest.importorskip("onnxruntime")


def expected(x: Floats, weight: Floats, target: list[int]) -> tuple[list[float], list[int]]:
    logits = torch.from_numpy(x).double() @ torch.from_numpy(weight).double().T
    each = functional.cross_entropy(logits, torch.tensor(target), reduction="none")
    return each.tolist(), logits.argmax(1).tolist()


@pytest.mark.parametrize("at_once", [7, 16, 50, 64])
def test_words_in_parts(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(words, "WORDS", at_once)
    monkeypatch.setattr(words, "ROWS", 3)
    draw = np.random.default_rng(0)
    x = draw.normal(size=(8, 16)).astype(np.float32)
    weight = draw.normal(size=(50, 16)).astype(np.float32)
    target = [0, 49, 6, 7, 13, 14, 25, 48]
    each, predicted = WordHead(Plain(weight), threads=1).losses(x, np.array(target))
    losses, best = expected(x, weight, target)
    assert each.tolist() == pytest.approx(losses, rel=1e-5)
    assert predicted.tolist() == best


def test_logits_that_no_exponential_bears(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(words, "WORDS", 2)
    # Logits 1000, -1000, 990, 0: the loss of the third is 10 + log(1 + e^-10 + ...).
    weight = np.array([[1000.0], [-1000.0], [990.0], [0.0]], dtype=np.float32)
    head = WordHead(Plain(weight), threads=1)
    one = np.ones((1, 1), dtype=np.float32)
    (each,), (predicted,) = head.losses(one, np.array([2]))
    assert each == pytest.approx(10 + np.log1p(np.exp(-10.0)))
    assert predicted == 0
    (each,), _ = head.losses(one, np.array([0]))
    assert each == pytest.approx(np.log1p(np.exp(-10.0)), rel=1e-6)


def test_no_words() -> None:
    each, predicted = WordHead(Plain(np.eye(4, dtype=np.float32))).losses(
        np.zeros((0, 4), dtype=np.float32), np.zeros(0, dtype=np.int64)
    )
    assert len(each) == len(predicted) == 0


@pytest.mark.parametrize("theta", [10_000.0, 1_000_000.0])
def test_angles_are_those_of_torch(theta: float) -> None:
    cos, sin = rotations(600, theta, 64)
    turn = rotation(torch.arange(600), theta, 64, torch.float32)
    assert np.allclose(cos[:, :32], turn.cos.numpy(), atol=2e-7, rtol=0)
    assert np.allclose(sin[:, 32:], turn.sin.numpy(), atol=2e-7, rtol=0)
    assert np.array_equal(cos[:, 32:], cos[:, :32])
    assert np.array_equal(sin[:, :32], -sin[:, 32:])
