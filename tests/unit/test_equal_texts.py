"""Texts of one length take a shorter way into a batch; it must end at the same place."""

from pathlib import Path

import numpy as np
import pytest
import torch

from fedloom.backbones.packing import pack
from fedloom.core.registry import Component
from fedloom.tuning.base import Task
from fedloom.tuning.batches import Batches
from fedloom.tuning.build import build_model
from fedloom.tuning.examples import TextExamples
from fedloom.tuning.fused_model import FusedModel

COUNT, LENGTH = 12, 5


@pytest.fixture(scope="module")
def model(model_folder: dict[tuple[str, str], Path]) -> FusedModel:
    folder = model_folder["bert", "AutoModelForSequenceClassification"]
    task, cpu = Task("classify", 3, "model"), torch.device("cpu")
    built = build_model(folder, Component("lora"), task, dtype=torch.float32, device=cpu)
    assert isinstance(built, FusedModel)
    return built


@pytest.mark.parametrize("counts", [(2, 2, 2), (3, 1, 2), (4,)])
def test_a_packing_is_what_pack_makes(model: FusedModel, counts: tuple[int, ...]) -> None:
    tokens = np.random.default_rng(0).integers(1, 100, COUNT * LENGTH).astype(np.int32)
    labels = np.zeros(COUNT, np.int64)
    texts = TextExamples(tokens, np.arange(COUNT + 1) * LENGTH, labels)
    batches = Batches(model, texts)
    order = np.random.default_rng(1).permutation(COUNT)
    ends = np.cumsum(counts)
    rows = [order[end - count : end] for end, count in zip(ends, counts, strict=True)]
    for _ in range(2):  # made, and made again
        own = batches.packing(rows)
        expected = pack([[texts.ids(int(i)) for i in row] for row in rows], read="first")
        for name in ("ids", "read"):
            assert getattr(own, name).tolist() == getattr(expected, name).tolist()
        assert own.positions.tolist() == expected.positions.tolist()
        assert own.back.tolist() == expected.back.tolist()
        assert (own.regular, own.useful) == (expected.regular, expected.useful)
        for one, other in zip(own.grids, expected.grids, strict=True):
            assert one.index.tolist() == other.index.tolist()
            assert one.rows.tolist() == other.rows.tolist()
            assert (one.mask is None) == (other.mask is None)
