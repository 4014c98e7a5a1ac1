from types import SimpleNamespace

import numpy as np
import pytest
import torch

from fedloom.core.layout import Layout, TensorSpec
from fedloom.core.types import Params
from fedloom.tuning.base import Task
from fedloom.tuning.examples import ImageExamples, TextExamples
from fedloom.tuning.padded import activation_bytes, padded_inputs, padded_losses
from fedloom.tuning.store import Store

CPU = torch.device("cpu")
TEXTS = TextExamples(
    np.array([1, 2, 3, 4, 5, 6], dtype=np.int32),
    np.array([0, 3, 4, 6], dtype=np.int64),
    np.array([0, 1, 1], dtype=np.int64),
)
ROWS = [np.array([0, 2]), np.array([1])]
STORE = Store(
    Params(Layout((TensorSpec("w", (1,)),)), np.zeros(1, dtype=np.float32)), (), clients=2
)


def test_texts_are_padded_to_the_longest_and_clients_to_the_largest() -> None:
    inputs = padded_inputs(TEXTS, ROWS, pad=9, device=CPU)
    assert inputs["input_ids"].tolist() == [[1, 2, 3], [5, 6, 9], [4, 9, 9], [4, 9, 9]]
    assert inputs["attention_mask"].tolist() == [[1, 1, 1], [1, 1, 0], [1, 0, 0], [1, 0, 0]]


def test_images() -> None:
    pixels = np.arange(3, dtype=np.float32).reshape(3, 1, 1, 1)
    images = ImageExamples(pixels, np.array([0, 1, 1], dtype=np.int64))
    found = padded_inputs(images, ROWS, pad=0, device=CPU)["pixel_values"]
    assert found.flatten().tolist() == [0, 2, 1, 1]


def test_other_examples_are_refused() -> None:
    with pytest.raises(TypeError, match="examples of int: neither text nor images"):
        padded_inputs(3, ROWS, pad=0, device=CPU)  # type: ignore[arg-type]


def test_tokens_before_the_text_predict_nothing() -> None:
    inputs = padded_inputs(TEXTS, ROWS, pad=0, device=CPU)
    logits = torch.randn(4, 3, 7, generator=torch.Generator().manual_seed(0))
    longer = torch.cat((torch.full((4, 2, 7), torch.nan), logits), dim=1)
    lm = TextExamples(TEXTS.tokens, TEXTS.offsets)
    plain, prompted = (
        padded_losses(
            SimpleNamespace(logits=given),
            inputs,
            store=STORE,
            task=Task("causal-lm"),
            examples=lm,
            rows=ROWS,
        )
        for given in (logits, longer)
    )
    assert plain.target.tolist() == [2, 3, 6]  # a text of one token predicts nothing
    assert plain.count.tolist() == [3, 0]
    assert torch.equal(plain.each, prompted.each)


def test_a_classifier_reads_the_logits_of_filled_slots() -> None:
    logits = torch.tensor([[9.0, 0], [0, 9.0], [0, 9.0], [9.0, 0]])
    found = padded_losses(
        SimpleNamespace(logits=logits),
        {},
        store=STORE,
        task=Task("classify", 2, "model"),
        examples=TEXTS,
        rows=ROWS,
    )
    assert found.correct.tolist() == [2, 1]
    assert found.count.tolist() == [2, 1]


def test_activations_of_a_token() -> None:
    config = SimpleNamespace(hidden_size=8, num_hidden_layers=3)
    assert activation_bytes(config, torch.bfloat16) == 34 * 8 * 3
    assert activation_bytes(config, torch.float32) == 2 * 34 * 8 * 3
