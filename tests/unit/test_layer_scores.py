"""How alike layers find examples: by hand, and of hidden states that transformers gives."""

from math import log
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModel

from fedloom.backbones.fused import load_fused
from fedloom.core.errors import ConfigError
from fedloom.tuning.adapters import HeadOnly
from fedloom.tuning.base import Task
from fedloom.tuning.examples import TextExamples
from fedloom.tuning.fused_model import FusedModel
from fedloom.tuning.layer_scores import layer_scores, spectral_score


def test_vectors_that_are_alike_score_higher() -> None:
    # At right angles the similarities are the unit matrix: eigenvalues 1 and 1.
    apart = spectral_score(np.array([[3.0, 0.0], [0.0, 5.0]]))
    assert apart == pytest.approx(2 * (log(1.00001) + 1 / 1.00001))
    # At 60 degrees: eigenvalues 1.5 and 0.5.
    near = spectral_score(np.array([[1.0, 0.0], [1.0, 3**0.5]]))
    expected = sum(log(e + 1e-5) + 1 / (e + 1e-5) for e in (1.5, 0.5))
    assert near == pytest.approx(expected)
    # The same twice: 2 and 0, of which the second counts 1 / 1e-5.
    same = spectral_score(np.array([[1.0, 2.0], [2.0, 4.0]]))
    assert same == pytest.approx(1e5, rel=1e-3)
    assert apart < near < same


def test_scores_are_of_the_frozen_model_s_hidden_states(text_model: dict[str, Path]) -> None:
    folder = text_model["classify"]
    backbone = load_fused(folder, dtype=torch.float32, device=torch.device("cpu"))
    model = FusedModel(backbone, HeadOnly(), Task("classify", classes=2))
    tokens = np.array([5, 9, 2, 7, 7, 3, 4, 11], dtype=np.int32)
    examples = TextExamples(tokens, np.array([0, 3, 4, 8]), np.zeros(3, dtype=np.int64))
    rows = np.array([2, 0, 1])
    found = layer_scores(model, examples, rows)
    reference = AutoModel.from_pretrained(folder).eval()
    vectors = [torch.zeros(3, 4, reference.config.hidden_size) for _ in range(len(found))]
    with torch.no_grad():
        for place, row in enumerate(rows):
            ids = torch.from_numpy(examples.ids(int(row)).astype(np.int64))[None]
            states = reference(ids, output_hidden_states=True).hidden_states[1:]
            for layer, hidden in enumerate(states):
                vectors[layer][place, : ids.shape[1]] = hidden[0]
    expected = [spectral_score(v.reshape(3, -1).double().numpy()) for v in vectors]
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_a_model_without_fused_blocks() -> None:
    examples = TextExamples(np.zeros(1, np.int32), np.array([0, 1]), np.zeros(1, np.int64))
    with pytest.raises(ConfigError, match="this model has no fused blocks"):
        layer_scores(object(), examples, np.array([0]))  # type: ignore[arg-type]
