"""Cohorts of unequal clients over small random models, to compare ways of training them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from fedloom.core.layout import Selector
from fedloom.core.registry import Component
from fedloom.core.types import LocalWork, Params
from fedloom.tuning.base import CohortModel, Task
from fedloom.tuning.build import build_model
from fedloom.tuning.examples import Examples, ImageExamples, TextExamples
from fedloom.tuning.learners.backprop import Backprop
from fedloom.tuning.learning import Assignment, LocalResult

Folders = dict[tuple[str, str], Path]
Ragged = tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.int64]]
CPU = torch.device("cpu")
SIZES = (9, 5, 3, 13, 10)


@dataclass(frozen=True)
class Case:
    family: str
    auto: str
    task: Task

    def folder(self, folders: Folders) -> Path:
        return folders[self.family, self.auto]

    def build(
        self, folders: Folders, adapter: str | Component, *, engine: str = "auto"
    ) -> CohortModel:
        component = Component(adapter) if isinstance(adapter, str) else adapter
        folder = self.folder(folders)
        return build_model(
            folder, component, self.task, dtype=torch.float32, device=CPU, engine=engine
        )

    def examples(self, ragged: Ragged) -> Examples:
        tokens, offsets, labels = ragged
        if self.task.kind == "classify-image":
            rng = np.random.default_rng(1)
            return ImageExamples(rng.integers(0, 256, (40, 1, 8, 8)).astype(np.uint8), labels)
        if self.task.kind == "causal-lm":
            prompts = (np.diff(offsets) // 3).astype(np.int32)
            return TextExamples(tokens, offsets, None, prompts)
        return TextExamples(tokens, offsets, labels)


CLASSIFIER = "AutoModelForSequenceClassification"
CASES = {
    "bert": Case("bert", CLASSIFIER, Task("classify", 3, "model")),
    "bert-mean": Case("bert", "AutoModel", Task("classify", 3, "mean", normalize=True)),
    "llama": Case("llama", CLASSIFIER, Task("classify", 3, "model")),
    "gpt2": Case("gpt2", CLASSIFIER, Task("classify", 3, "model")),
    "qwen2-lm": Case("qwen2", "AutoModelForCausalLM", Task("causal-lm")),
    "gpt2-lm": Case("gpt2", "AutoModelForCausalLM", Task("causal-lm")),
    "vit": Case("vit", "AutoModelForImageClassification", Task("classify-image", 3, "model")),
}


def cohort() -> list[Assignment]:
    ends = np.cumsum(SIZES)
    return [
        Assignment(f"c{i}", np.arange(end - size, end), round=1, seed=0)
        for i, (size, end) in enumerate(zip(SIZES, ends, strict=True))
    ]


def start(model: CohortModel) -> Params:
    """A model that has been trained a little: no tensor is zero, or the identity, by design."""
    params = model.initial(3)
    noise = np.random.default_rng(2).normal(scale=0.05, size=params.vector.shape)
    return Params(params.layout, params.vector + noise.astype(np.float32))


def train_at_once(
    model: CohortModel, examples: Examples, work: LocalWork, train: Selector = ("*",)
) -> list[LocalResult]:
    params = start(model)
    session = model.session(params, train, examples)
    return Backprop().train(session, params, work, cohort())


def train_one_by_one(
    model: CohortModel, examples: Examples, work: LocalWork, train: Selector = ("*",)
) -> list[LocalResult]:
    params = start(model)
    session = model.session(params, train, examples)
    return [r for one in cohort() for r in Backprop().train(session, params, work, [one])]


def apart(found: Sequence[LocalResult], other: Sequence[LocalResult]) -> float:
    """The largest relative difference between the deltas of a client."""
    assert [r.client for r in found] == [r.client for r in other]
    assert [r.num_examples for r in found] == [r.num_examples for r in other]
    pairs = zip(found, other, strict=True)
    return max(float(np.linalg.norm(a.delta - b.delta) / np.linalg.norm(b.delta)) for a, b in pairs)
