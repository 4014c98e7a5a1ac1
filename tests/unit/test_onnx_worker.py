"""Tasks on a device without torch: the same results as with it, and what is refused and how."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from small_jobs import labelled_rows

from fedloom.client.manifest import Manifest, Order
from fedloom.client.onnx_worker import OnnxWorker
from fedloom.client.settings import ClientSettings
from fedloom.client.which_engine import engine_of
from fedloom.client.worker import Worker
from fedloom.codecs.dense import Float32
from fedloom.codecs.exchange import changed, sent_down
from fedloom.core.component import Component
from fedloom.core.errors import ConfigError, LayoutError, ModelError
from fedloom.core.job import Job, job_from
from fedloom.core.types import ClientTask, Selectors
from fedloom.tuning.base import Task
from fedloom.tuning.build import model_of
from fedloom.tuning.data import Corpus, own_examples
from fedloom.tuning.onnx.model import OnnxModel
from fedloom.tuning.reading import reading_of

pytest.importorskip("onnxruntime")

CLASSES = ("field", "harbour", "treasury")
TABLE: dict[str, Any] = {
    "backbone": {"max_tokens": 32, "head_init": "normal"},
    "data": {"split": "split"},
    "adapter": {"name": "lora", "rank": 2},
    "learner": {"name": "finite-difference", "directions": 4},
    "codec_up": {"name": "scalars"},
    "stages": [{"train": ["head", "B"], "local": {"batch_size": 8, "steps": 1}}],
}
SETTINGS = ClientSettings(threads=1, device="cpu", cache_gb=0.0)


def corpus_of(folder: Path, table: dict[str, Any] = TABLE) -> Corpus:
    job = job_from(table)
    config = replace(job.data, classes=CLASSES)
    return own_examples(labelled_rows(30, clients=1), config, reading_of(job.backbone, folder))


def manifest_of(folder: Path, job: Job) -> Manifest:
    built = model_of(job, folder, CLASSES, dtype=torch.float32, device=torch.device("cpu"))
    return Manifest("f", job, CLASSES, built.layout.digest, ())


def made(folder: Path, table: dict[str, Any]) -> OnnxWorker:
    return OnnxWorker(
        manifest_of(folder, job_from(table)), folder, corpus_of(folder, table), SETTINGS
    )


def order_of(job: Job, **changes: Any) -> Order:
    stage = job.stages[0]
    task = ClientTask("c", 1, 0, stage.local, Selectors(train=stage.train), seed=0)
    return Order(replace(task, **changes), 0)


def frame_of(worker: OnnxWorker) -> bytes:
    start = worker._incoming.start
    part = changed([s.selectors for s in worker.manifest.job.stages], start.layout)
    return sent_down(start, Float32(), part, version=0).frame


@pytest.fixture
def folder(text_model: dict[str, Path]) -> Path:
    return text_model["classify"]


def test_results_are_those_of_a_device_with_torch(folder: Path, tmp_path: Path) -> None:
    own = made(folder, TABLE)
    other = Worker(own.manifest, folder, own.corpus, SETTINGS, tmp_path)
    order, frame = order_of(own.manifest.job), frame_of(own)
    (one, payload), (two, expected) = (w.train(order, "t", frame) for w in (own, other))
    assert len(payload) == len(expected)
    assert (one.codec, one.num_examples, one.tokens) == (two.codec, two.num_examples, two.tokens)
    assert one.metrics == pytest.approx(two.metrics, rel=1e-3)
    assert own.evaluate(order, "t", frame).metrics == pytest.approx(
        other.evaluate(order, "t", frame).metrics, rel=1e-5
    )


REFUSED = {
    "backbone.pooling": {"backbone": {**TABLE["backbone"], "pooling": "model"}},
    "adapter.name": {"adapter": {"name": "prefix"}},
    "others need torch": {"adapter": {"name": "bottleneck", "width": 2, "units": 2}},
}


@pytest.mark.parametrize("text", REFUSED)
def test_jobs_that_need_torch(text: str, folder: Path) -> None:
    with pytest.raises(ConfigError, match=text):
        made(folder, {**TABLE, **REFUSED[text]})


def test_a_language_model(text_model: dict[str, Path], tmp_path: Path) -> None:
    folder = text_model["causal-lm"]
    stage = {"train": ["B"], "local": {"batch_size": 4, "steps": 1}}
    backbone = {"max_tokens": 32, "task": "causal-lm"}
    own = made(folder, {**TABLE, "backbone": backbone, "stages": [stage]})
    other = Worker(own.manifest, folder, own.corpus, SETTINGS, tmp_path)
    order, frame = order_of(own.manifest.job), frame_of(own)
    (one, _), (two, _) = (w.train(order, "t", frame) for w in (own, other))
    assert (one.codec, one.num_examples, one.tokens) == (two.codec, two.num_examples, two.tokens)
    assert one.metrics == pytest.approx(two.metrics, rel=1e-5)
    found, expected = (w.evaluate(order, "t", frame).metrics for w in (own, other))
    assert set(found) == {"loss", "accuracy", "perplexity"}
    assert found == pytest.approx(expected, rel=1e-5)


def test_another_family(model_folder: dict[tuple[str, str], Path], folder: Path) -> None:
    worker = made(folder, TABLE)
    known = "'bert', 'llama', 'qwen2', 'gpt2'; others need torch"
    with pytest.raises(ModelError, match=f"'vit': the engine onnx has {known}"):
        replace(worker, folder=model_folder["vit", "AutoModel"])


def test_a_language_model_that_has_no_head(
    model_folder: dict[tuple[str, str], Path], folder: Path
) -> None:
    lora, words = Component("lora", {}), Task("causal-lm")
    with pytest.raises(ModelError, match=r"no language-model head \(lm_head.weight\)"):
        OnnxModel(model_folder["llama", "AutoModel"], lora, words)
    with pytest.raises(ConfigError, match="the engine onnx has 'classify' for this backbone"):
        OnnxModel(folder, lora, words)


def test_another_layout(folder: Path) -> None:
    worker = made(folder, TABLE)
    with pytest.raises(LayoutError, match="the server has another"):
        replace(worker, manifest=replace(worker.manifest, layout="0" * 64))


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"blocks": (0, 1)}, "runs all of the backbone's blocks"),
        ({"selectors": Selectors(train=("*",), keep=("head",))}, "keeps no tensors of its own"),
    ],
)
def test_tasks_that_need_torch(changes: dict[str, Any], text: str, folder: Path) -> None:
    worker = made(folder, TABLE)
    with pytest.raises(ConfigError, match=text):
        worker.train(order_of(worker.manifest.job, **changes), "t", frame_of(worker))


@pytest.mark.parametrize(
    ("learner", "text"),
    [
        ({"name": "backprop"}, "a device without torch has 'finite-difference'"),
        ({"name": "finite-difference", "exact": ["A"]}, "no other exact gradients"),
        ({"name": "finite-difference", "send": "tensors"}, "'scalars' with the engine onnx"),
        ({"name": "finite-difference", "h": 1e-9}, "a smaller step is lost"),
    ],
)
def test_learners_that_need_torch(learner: dict[str, Any], text: str, folder: Path) -> None:
    stages = [{"local": {"batch_size": 8, "steps": 1}}]
    codec = {"name": "float32" if learner["name"] == "backprop" else "scalars"}
    adapter = {"name": "lora", "rank": 2, "alpha": 64.0}  # a usual step changes the losses
    own = {"learner": learner, "codec_up": codec, "stages": stages, "adapter": adapter}
    worker = made(folder, {**TABLE, **own})
    with pytest.raises(ConfigError, match=text):
        worker.train(order_of(worker.manifest.job), "t", frame_of(worker))


def test_the_engine_that_the_owner_names() -> None:
    assert engine_of(ClientSettings(engine="onnx")) == "onnx"
    assert engine_of(ClientSettings()) == "torch"
    with pytest.raises(ConfigError, match="engine = 'tflite': auto, torch or onnx"):
        ClientSettings(engine="tflite")
