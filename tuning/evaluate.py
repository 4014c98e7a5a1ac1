"""How good a model is on some examples."""

from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedloom.core.layout import Selector
from fedloom.core.types import Params
from fedloom.tuning.base import Session
from fedloom.tuning.examples import Examples, TextExamples
from fedloom.tuning.scores import batches_of, macro_f1
from fedloom.tuning.stage_session import StageSession

__all__ = ["BATCH_TOKENS", "Evaluation", "Evaluator", "evaluate"]

BATCH_TOKENS = 4096
"""Tokens of a batch that is evaluated, where memory allows them."""


@dataclass(frozen=True)
class Evaluation:
    """Figures over a set of examples.

    Attributes:
        metrics: ``loss`` and ``accuracy`` (per prediction), ``macro_f1`` (classification) or
            ``perplexity`` (language model).
        loss: float32 ``[N]``, mean loss of each example; 0 where it predicts nothing.
        correct: float32 ``[N]``, share of right predictions of each example.
    """

    metrics: dict[str, float]
    loss: NDArray[np.float32]
    correct: NDArray[np.float32]


class Evaluator:
    """Evaluates global models on one set of examples, batches side by side.

    Models may differ in what does not train, too, such as a side-car: they are set up again then.

    Attributes:
        train: what trains, and so is no part of what is set up.
        examples: the data.
        workers: threads.
    """

    def __init__(
        self,
        make: Callable[[Params, Selector, Examples], Session],
        train: Selector,
        examples: Examples,
        *,
        workers: int = 1,
    ) -> None:
        self.train, self.examples, self.workers = train, examples, workers
        self._sessions = StageSession(lambda params, some: make(params, some, examples))

    def __call__(self, params: Params) -> Evaluation:
        """Loss, accuracy and so on of one global model."""
        session = self._sessions.of(params, self.train)
        with ThreadPoolExecutor(self.workers) as pool:
            return evaluate(session, params, self.examples, pool=pool)


def evaluate(
    session: Session,
    params: Params,
    examples: Examples,
    *,
    pool: Executor | None = None,
    batch_tokens: int = BATCH_TOKENS,
    rows: NDArray[np.int64] | None = None,
) -> Evaluation:
    """Run a model over examples, similar lengths together.

    Args:
        session: the model, set up for these examples.
        params: the model.
        examples: what it is evaluated on.
        pool: threads that run batches side by side.
        batch_tokens: tokens in a batch at most.
        rows: int64, which of the examples; None for all. What is found of each is 0 for others.
    """
    lengths = examples.lengths()
    chosen = np.arange(len(examples)) if rows is None else rows
    order = chosen[np.argsort(lengths[chosen], kind="stable")]

    def one(batch: NDArray[np.int64]) -> Tensor:
        with torch.no_grad():
            found = session.losses(session.store(params, 1), [batch])
        return torch.stack((found.each.double(), found.predicted, found.target)).cpu()

    batches = batches_of(order, lengths, batch_tokens)
    parts = list(pool.map(one, batches) if pool else map(one, batches))
    each, predicted, target = torch.cat(parts, dim=1).numpy()
    right = (predicted == target).astype(np.float32)
    metrics = {"loss": float(each.mean()), "accuracy": float(right.mean())}
    if isinstance(examples, TextExamples) and examples.labels is None:
        metrics["perplexity"] = float(np.exp(min(metrics["loss"], 700.0)))
        counts = examples.predictions(order)
    else:
        metrics["macro_f1"] = macro_f1(target.astype(np.int64), predicted.astype(np.int64))
        counts = np.ones(len(order), dtype=np.int64)
    owner = np.repeat(order, counts)
    some = np.maximum(np.bincount(owner, minlength=len(examples)), 1)  # a text may predict nothing
    loss, correct = (
        (np.bincount(owner, weights=of, minlength=len(examples)) / some).astype(np.float32)
        for of in (each, right)
    )
    return Evaluation(metrics, loss, correct)
