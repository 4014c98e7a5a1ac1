"""A client without torch finds what one with torch finds: the same directions, the same integers.

Slopes are differences of losses in float32, about 1e-7 of them, over h: 0.2 / sqrt(d), here 0.005
to 0.01. That is 2e-5, a hundredth of what a scalar of one stands for (2^-9): a slope is rounded to
the neighbouring integer now and then, and what follows differs by such a step: 1e-4 of the head's
change at most.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from fedloom.backbones.formats import SCHEMES
from fedloom.backbones.quantize import quantize
from fedloom.core.component import Component
from fedloom.core.types import LocalWork, Params
from fedloom.tuning.base import Task
from fedloom.tuning.build import build_model
from fedloom.tuning.evaluate import evaluate
from fedloom.tuning.examples import TextExamples
from fedloom.tuning.learners.finite_difference import FiniteDifference
from fedloom.tuning.learning import NOTHING, Assignment, LocalResult
from fedloom.tuning.onnx.model import OnnxModel
from fedloom.tuning.onnx.score import score
from fedloom.tuning.onnx.session import OnnxSession
from fedloom.tuning.onnx.walk import walk

pytest.importorskip("onnxruntime")

Folders = Mapping[tuple[str, str], Path]
Ragged = tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.int64]]

TASK = Task(classes=3, normalize=True, head_init="normal")
LORA = Component("lora", {"rank": 2})
WORK = LocalWork(steps=2, batch_size=6, lr=0.1, head_lr=0.05)
OWN = Assignment("someone", np.arange(20), round=3, seed=7)
FD = FiniteDifference(directions=6)


def moved(start: Params) -> Params:
    """A model after some rounds: nothing is zero, so that every tensor matters."""
    noise = np.random.default_rng(1).normal(0, 0.05, start.layout.size).astype(np.float32)
    return Params(start.layout, start.vector + noise)


class Pair:
    """The same model in both engines; of a language model half of each text is learned."""

    def __init__(self, folder: Path, ragged: Ragged, adapter: Component, task: Task = TASK) -> None:
        self.examples = TextExamples(*ragged)
        if task.kind == "causal-lm":
            prompts = (self.examples.lengths() // 2).astype(np.int32)
            self.examples = TextExamples(*ragged[:2], prompt_lengths=prompts)
        cpu = torch.device("cpu")
        self.torch = build_model(folder, adapter, task, dtype=torch.float32, device=cpu)
        self.onnx = OnnxModel(folder, adapter, task, threads=1)
        self.params = moved(self.torch.initial(5))

    def train(
        self, learner: FiniteDifference, train: tuple[str, ...] = ("*",), work: LocalWork = WORK
    ) -> tuple[LocalResult, LocalResult]:
        session = self.torch.session(self.params, train, self.examples)
        (one,) = learner.train(session, self.params, work, [OWN])
        own = OnnxSession(self.onnx, self.params, train, self.examples)
        return one, walk(learner, own, self.params, work, OWN, NOTHING)

    def check_scores(self) -> None:
        session = OnnxSession(self.onnx, self.params, (), self.examples)
        found = score(session, self.params, self.examples)
        whole = self.torch.session(self.params, (), self.examples)
        expected = evaluate(whole, self.params, self.examples).metrics
        assert found == pytest.approx(expected, rel=1e-5)


@pytest.fixture
def folder(model_folder: Folders) -> Path:
    return model_folder["bert", "AutoModel"]


def check(one: LocalResult, other: LocalResult) -> None:
    assert one.steps is not None
    assert other.steps is not None
    assert one.steps.layout == other.steps.layout
    assert one.steps.entries()[0].key == other.steps.entries()[0].key
    assert (one.steps.coefficient, one.steps.origin) == (
        other.steps.coefficient,
        other.steps.origin,
    )
    assert one.steps.scalars.shape == other.steps.scalars.shape
    assert np.abs(one.steps.scalars).max() > 5
    assert np.abs(one.steps.scalars - other.steps.scalars).max() <= 1
    assert one.layout == other.layout
    assert np.allclose(one.delta, other.delta, atol=1e-4)
    assert one.delta.size == 0 or np.abs(one.delta).max() > 2e-3
    assert one.num_examples == other.num_examples
    assert one.tokens == other.tokens
    assert one.metrics == pytest.approx(other.metrics, rel=1e-3)


@pytest.mark.parametrize("name", ["", "int8", "int4-32", "uint4-32", "q8_0"])
def test_every_format_of_weights(name: str, folder: Path, ragged: Ragged, tmp_path: Path) -> None:
    if name:
        quantize(folder, tmp_path / "small", SCHEMES[name])
        folder = tmp_path / "small"
    pair = Pair(folder, ragged, LORA)
    check(*pair.train(FD, ("head", "B")))


ADAPTERS = {
    "lora": LORA,
    "one layer": Component("lora", {"rank": 3, "layers": (-1,), "targets": ("all-linear",)}),
    "rank one": Component("lora", {"rank": 1, "alpha": 3.0}),
    "ia3": Component("ia3", {}),
    "bottleneck": Component("bottleneck", {"width": 4}),
}


@pytest.mark.parametrize("name", ADAPTERS)
def test_every_adapter(name: str, folder: Path, ragged: Ragged) -> None:
    check(*Pair(folder, ragged, ADAPTERS[name]).train(FD))


LEARNERS = {
    "central": replace(FD, difference="central"),
    "an own h": replace(FD, h=0.02),
    "the head along directions": replace(FD, exact=()),
    "one at once": replace(FD, at_once=1),
    "more than a group": replace(FD, directions=11),
    "a pool": replace(FD, scheme="pool", pool=32),
    "shared": replace(FD, scheme="shared"),
    "gaussian": replace(FD, family="gaussian"),
    "of each example": replace(FD, directions=2, per_example=True),
}


@pytest.mark.parametrize("name", LEARNERS)
def test_every_way_of_searching(name: str, folder: Path, ragged: Ragged) -> None:
    check(*Pair(folder, ragged, LORA).train(LEARNERS[name]))


@pytest.mark.parametrize("task", [replace(TASK, normalize=False), replace(TASK, pooling="last")])
def test_what_the_head_reads(task: Task, folder: Path, ragged: Ragged) -> None:
    pair = Pair(folder, ragged, LORA, task)
    check(*pair.train(FD))
    pair.check_scores()


@pytest.mark.parametrize("name", ["lora", "ia3", "bottleneck", "head"])
def test_layout_and_start_to_the_bit(name: str, folder: Path, ragged: Ragged) -> None:
    pair = Pair(folder, ragged, Component(name, {}))
    assert pair.onnx.layout == pair.torch.layout
    assert pair.onnx.initial(9).vector.tobytes() == pair.torch.initial(9).vector.tobytes()


def test_evaluating_a_head_alone(folder: Path, ragged: Ragged) -> None:
    Pair(folder, ragged, Component("head", {})).check_scores()


DECODERS = ("llama", "qwen2", "gpt2")
WORDS = Task("causal-lm")


@pytest.mark.parametrize("family", DECODERS)
def test_decoders_that_learn_words(family: str, model_folder: Folders, ragged: Ragged) -> None:
    pair = Pair(model_folder[family, "AutoModelForCausalLM"], ragged, LORA, WORDS)
    check(*pair.train(FD, ("B",)))
    pair.check_scores()
    start = pair.torch.initial(9)
    assert pair.onnx.initial(9).vector.tobytes() == start.vector.tobytes()
    pair.params = start  # nothing inside the blocks changes the model
    pair.check_scores()


@pytest.mark.parametrize("family", DECODERS)
@pytest.mark.parametrize("pooling", ["mean", "last", "model"])
def test_decoders_that_classify(
    family: str, pooling: str, model_folder: Folders, ragged: Ragged
) -> None:
    auto = "AutoModelForSequenceClassification" if pooling == "model" else "AutoModel"
    task = replace(TASK, pooling=pooling, normalize=pooling == "mean")
    pair = Pair(model_folder[family, auto], ragged, LORA, task)
    check(*pair.train(FD))
    pair.check_scores()


# A step along one direction of the few that a language model of this size has.
@pytest.mark.parametrize("name", ["", "int8", "int4-32", "uint4-32", "q8_0", "nf4-64", "bfloat16"])
def test_decoders_in_every_format(
    name: str, model_folder: Folders, ragged: Ragged, tmp_path: Path
) -> None:
    folder = model_folder["gpt2", "AutoModelForCausalLM"]
    folder = model_folder["qwen2", "AutoModelForCausalLM"] if name == "bfloat16" else folder
    if name in SCHEMES and name != "nf4-64":  # whose groups are longer than rows
        quantize(folder, tmp_path / "small", SCHEMES[name])
        folder = tmp_path / "small"
    pair = Pair(folder, ragged, LORA, WORDS)
    check(*pair.train(FD, ("B",)))


def test_words_of_each_example(model_folder: Folders, ragged: Ragged) -> None:
    pair = Pair(model_folder["llama", "AutoModelForCausalLM"], ragged, LORA, WORDS)
    check(*pair.train(LEARNERS["of each example"], ("B",)))
