import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from fedloom.core.layout import Layout, TensorSpec
from fedloom.core.types import Params
from fedloom.tuning.base import Losses, Rows
from fedloom.tuning.evaluate import evaluate
from fedloom.tuning.examples import ImageExamples, TextExamples
from fedloom.tuning.losses import client_losses
from fedloom.tuning.store import Store

PARAMS = Params(Layout((TensorSpec("w", (1,)),)), np.zeros(1, dtype=np.float32))


@dataclass
class Table:
    """A session that answers from a table: loss, prediction and target of each prediction."""

    each: Sequence[Sequence[float]]
    predicted: Sequence[Sequence[int]]
    target: Sequence[Sequence[int]]
    asked: list[list[int]] = field(default_factory=list)

    def store(self, params: Params, clients: int) -> Store:
        return Store(params, (), clients=clients)

    def losses(self, store: Store, rows: Rows) -> Losses:
        (own,) = rows
        self.asked.append(own.tolist())
        assert not torch.is_grad_enabled()
        count = torch.zeros(1)
        each = [x for i in own for x in self.each[i]]
        predicted = [x for i in own for x in self.predicted[i]]
        target = [x for i in own for x in self.target[i]]
        parts = torch.tensor(each), torch.tensor(predicted), torch.tensor(target)
        return Losses(count, count, count, *parts)

    def tokens(self, rows: NDArray[np.int64]) -> int:
        return len(rows)

    def flops(self, tokens: int) -> float:
        return 0.0

    def memory(self, tokens: int, *, backward: bool) -> int:
        return 8 * tokens

    def over(self, rows: NDArray[np.int64]) -> "Table":
        return self


def texts(lengths: Sequence[int], labels: Sequence[int] | None) -> TextExamples:
    offsets = np.concatenate(([0], np.cumsum(lengths))).astype(np.int64)
    kept = None if labels is None else np.array(labels, dtype=np.int64)
    return TextExamples(np.ones(offsets[-1], dtype=np.int32), offsets, kept)


CLASSES = Table(
    each=[[0.5], [1.0], [2.0], [0.5]],
    predicted=[[0], [1], [1], [2]],
    target=[[0], [1], [0], [2]],
)


def test_figures_of_a_classifier() -> None:
    found = evaluate(CLASSES, PARAMS, texts([9, 2, 5, 3], [0, 1, 0, 2]))
    assert found.loss.tolist() == [0.5, 1.0, 2.0, 0.5]
    assert found.correct.tolist() == [1, 1, 0, 1]
    # F1 of class 0: 2 * 1 / (2 + 1); of class 1: 2 * 1 / (1 + 2); of class 2: 1. Mean 7/9.
    assert found.metrics == pytest.approx({"loss": 1.0, "accuracy": 0.75, "macro_f1": 7 / 9})


def test_similar_lengths_go_together_within_the_budget() -> None:
    table = Table(CLASSES.each, CLASSES.predicted, CLASSES.target)
    evaluate(table, PARAMS, texts([9, 2, 5, 3], [0, 1, 0, 2]), batch_tokens=6)
    assert table.asked == [[1, 3], [2], [0]]  # 2 + 3 tokens, 5, and one too long for any batch


def test_batches_and_threads_do_not_change_the_figures() -> None:
    examples = texts([9, 2, 5, 3], [0, 1, 0, 2])
    whole = evaluate(CLASSES, PARAMS, examples)
    with ThreadPoolExecutor(2) as pool:
        pieces = evaluate(CLASSES, PARAMS, examples, pool=pool, batch_tokens=1)
    assert whole.metrics == pytest.approx(pieces.metrics)
    assert np.array_equal(whole.loss, pieces.loss)
    assert np.array_equal(whole.correct, pieces.correct)


def test_figures_of_a_language_model() -> None:
    # Texts of 3, 1 and 2 tokens predict 2, 0 and 1 of them.
    table = Table(
        each=[[1.0, 2.0], [], [3.0]], predicted=[[4, 5], [], [6]], target=[[4, 0], [], [6]]
    )
    found = evaluate(table, PARAMS, texts([3, 1, 2], None))
    assert found.loss.tolist() == [1.5, 0, 3]
    assert found.correct.tolist() == [0.5, 0, 1]
    # per prediction, not per text: (1 + 2 + 3) / 3
    assert found.metrics == pytest.approx(
        {"loss": 2.0, "accuracy": 2 / 3, "perplexity": math.exp(2)}
    )


def test_perplexity_of_a_hopeless_model_is_a_number() -> None:
    table = Table(each=[[1e6]], predicted=[[0]], target=[[1]])
    assert math.isfinite(evaluate(table, PARAMS, texts([2], None)).metrics["perplexity"])


def test_images() -> None:
    images = ImageExamples(np.zeros((4, 1, 2, 2), dtype=np.uint8), np.array([0, 1, 0, 2]))
    assert evaluate(CLASSES, PARAMS, images).metrics["accuracy"] == 0.75


def test_the_figures_are_those_of_the_losses() -> None:
    logits = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    found = client_losses(logits, torch.tensor([0, 0]), torch.tensor([0, 0]), clients=1)
    table = Table([[float(x)] for x in found.each], [[0], [1]], [[0], [0]])
    metrics = evaluate(table, PARAMS, texts([3, 3], [0, 0])).metrics
    assert metrics["loss"] == pytest.approx(float(found.loss[0]))
    assert metrics["accuracy"] == float(found.correct[0] / found.count[0])
