"""A model with an encoder and a decoder trains by the names of its blocks, as others do."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import T5Config, T5ForSequenceClassification

from fedloom.core.registry import Component
from fedloom.core.types import LocalWork
from fedloom.tuning.base import Task
from fedloom.tuning.build import build_model
from fedloom.tuning.examples import TextExamples
from fedloom.tuning.learners.backprop import Backprop
from fedloom.tuning.learning import Assignment

TRAIN = ("decoder.layer.1", "head")
SIZES = (5, 7, 4, 6, 5, 8)
EOS = 1


def examples() -> TextExamples:
    """Six texts of three classes that end as T5 reads them."""
    rng = np.random.default_rng(0)
    texts = [np.append(rng.integers(3, 99, size), EOS) for size in SIZES]
    offsets = np.cumsum([0, *map(len, texts)]).astype(np.int64)
    labels = np.array([0, 1, 2, 0, 1, 2])
    return TextExamples(np.concatenate(texts).astype(np.int32), offsets, labels=labels)


@pytest.mark.parametrize("adapter", ["lora", "full"])
def test_clients_of_t5_train_together_as_alone(adapter: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    widths = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4}
    config = T5Config(**widths, vocab_size=100, num_labels=3, decoder_start_token_id=0)
    T5ForSequenceClassification(config).save_pretrained(tmp_path)
    options = {"targets": ("all-linear",)} if adapter == "lora" else {"layers": (-1,)}
    model = build_model(
        tmp_path,
        Component(adapter, options),
        Task("classify", 3, "model"),
        dtype=torch.float32,
        device=torch.device("cpu"),
    )
    blocks = {spec.block for spec in model.layout}
    assert {"encoder.layer.1", "decoder.layer.1", "head"} <= blocks
    params, texts = model.initial(0), examples()
    session = model.session(params, TRAIN, texts)
    work = LocalWork(epochs=4, batch_size=2, lr=0.05)
    cohort = [
        Assignment(name, rows, 1, 0)
        for name, rows in zip("ab", np.split(np.arange(6), 2), strict=True)
    ]
    together = Backprop().train(session, params, work, cohort)
    for own, alone in zip(together, cohort, strict=True):
        (expected,) = Backprop().train(session, params, work, [alone])
        assert {spec.block for spec in own.layout} == set(TRAIN)
        np.testing.assert_allclose(own.delta, expected.delta, rtol=0, atol=2e-5)
        assert np.abs(own.delta).max() > 0.01
