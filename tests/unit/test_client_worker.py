from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from small_jobs import labelled_rows

from fedloom.client.manifest import Manifest, Order
from fedloom.client.settings import ClientSettings
from fedloom.client.worker import Worker
from fedloom.codecs.dense import Float32
from fedloom.codecs.exchange import changed, sent_down
from fedloom.core.component import Component
from fedloom.core.errors import CodecError, DataError, LayoutError, ModelError
from fedloom.core.job import Job, job_from
from fedloom.core.types import ClientTask, LocalWork, Payload, Selectors
from fedloom.tuning.build import model_of
from fedloom.tuning.data import Corpus, own_examples
from fedloom.tuning.reading import reading_of

CLASSES = ("field", "harbour", "treasury")
JOB = job_from(
    {
        "backbone": {"max_tokens": 32, "head_init": "normal"},
        "data": {"split": "split"},
        "adapter": {"name": "lora", "rank": 2},
        "stages": [{"train": ["head"]}, {"local": {"batch_size": 8}}],
    }
)
SETTINGS = ClientSettings(threads=1, device="cpu", cache_gb=0.0)


@pytest.fixture
def folder(text_model: dict[str, Path]) -> Path:
    return text_model["classify"]


@pytest.fixture
def corpus(folder: Path) -> Corpus:
    config = replace(JOB.data, classes=CLASSES)
    return own_examples(labelled_rows(30, clients=1), config, reading_of(JOB.backbone, folder))


def digest_of(folder: Path, job: Job = JOB) -> str:
    cpu = torch.device("cpu")
    return model_of(job, folder, ("a", "b", "c"), dtype=torch.float32, device=cpu).layout.digest


@pytest.fixture
def worker(folder: Path, corpus: Corpus, tmp_path: Path) -> Worker:
    manifest = Manifest("f", JOB, CLASSES, digest_of(folder), ())
    return Worker(manifest, folder, corpus, SETTINGS, tmp_path)


def frame(worker: Worker, stage: int) -> bytes:
    stages = [s.selectors for s in JOB.stages[: stage + 1]]
    part = changed(stages, worker._start.layout)
    return sent_down(worker._start, Float32(), part, version=0).frame


def order(stage: int, **work: float) -> Order:
    wanted = JOB.stages[stage]
    local = LocalWork(**{"batch_size": 8, **work})  # type: ignore[arg-type]
    task = ClientTask("c", 1, 0, local, Selectors(train=wanted.train), seed=0)
    return Order(task, stage)


def test_only_what_trains_is_sent(worker: Worker) -> None:
    finished, payload = worker.train(order(0), "t", frame(worker, 0))
    head = worker._start.layout.select(("head",))
    delta = Float32().decode(Payload("float32", payload), head)
    assert np.abs(delta.vector).max() > 0
    assert (finished.size, finished.codec, finished.num_examples) == (len(payload), "float32", 25)
    assert finished.flops > 0
    assert finished.peak_memory > 2**20


def test_the_same_task_twice_gives_the_same_bits(worker: Worker) -> None:
    first = worker.train(order(1), "t", frame(worker, 1))[1]
    worker.train(order(1, lr=0.5), "u", frame(worker, 1))
    assert worker.train(order(1), "t", frame(worker, 1))[1] == first


def test_training_that_diverges_sends_no_model(worker: Worker) -> None:
    with np.errstate(all="ignore"):
        finished, payload = worker.train(order(1, lr=1e38, epochs=3), "t", frame(worker, 1))
    assert (payload, finished.size) == (b"", 0)


def test_evaluation_is_on_what_is_held_out(worker: Worker) -> None:
    finished = worker.evaluate(order(1), "t", frame(worker, 1))
    assert (finished.num_examples, finished.size) == (5, 0)
    assert set(finished.metrics) == {"loss", "accuracy", "macro_f1"}


def test_a_frame_of_another_stage(worker: Worker) -> None:
    with pytest.raises(CodecError, match="expected"):
        worker.train(order(1), "t", frame(worker, 0))


def test_a_device_without_training_examples(worker: Worker) -> None:
    none = worker.corpus.train.take(np.zeros(0, np.int64))
    worker.corpus = replace(worker.corpus, train=none)
    with pytest.raises(DataError, match="no training examples"):
        worker.train(order(1), "t", frame(worker, 1))


def few(folder: Path, tmp_path: Path, labelled: int) -> Worker:
    """A device of a job for pseudo-labels that has so many labels."""
    learner = Component("pseudo-labels", {"pacing": "fixed", "count": 5, "after": 1})
    data = replace(JOB.data, unlabelled=True)
    job, rows = replace(JOB, learner=learner, data=data), labelled_rows(30, clients=1)
    told = [{**row, "label": row["label"] if i < labelled else ""} for i, row in enumerate(rows)]
    reading = reading_of(job.backbone, folder)
    corpus = own_examples(told, replace(data, classes=CLASSES), reading)
    return Worker(
        Manifest("f", job, CLASSES, digest_of(folder), ()), folder, corpus, SETTINGS, tmp_path
    )


def test_rows_without_a_label_get_one_of_the_model(folder: Path, tmp_path: Path) -> None:
    worker = few(folder, tmp_path, labelled=4)
    assert len(worker.corpus.train) == 25
    first = order(1)
    assert worker.train(first, "t", frame(worker, 1))[0].num_examples == 4
    later = replace(first, task=replace(first.task, round=2))
    finished, _ = worker.train(later, "u", frame(worker, 1))
    assert (finished.num_examples, finished.metrics["pseudo"]) == (4 + 5, 5)


def test_a_device_without_labels_sits_a_round_of_labels_out(folder: Path, tmp_path: Path) -> None:
    worker = few(folder, tmp_path, labelled=0)
    with pytest.raises(DataError, match="neither labels nor pseudo-labels"):
        worker.train(order(1), "t", frame(worker, 1))
    with pytest.raises(DataError, match="no labelled examples to evaluate on"):
        worker.evaluate(order(1), "t", frame(worker, 1))


def test_another_model_than_the_server_s(folder: Path, corpus: Corpus, tmp_path: Path) -> None:
    manifest = Manifest("f", JOB, CLASSES, "0" * 64, ())
    with pytest.raises(LayoutError, match="this device builds a model of layout"):
        Worker(manifest, folder, corpus, SETTINGS, tmp_path)


def test_a_model_that_takes_more_than_it_may(folder: Path, corpus: Corpus, tmp_path: Path) -> None:
    small = replace(SETTINGS, memory="50MB")
    worker = Worker(
        Manifest("f", JOB, CLASSES, digest_of(folder), ()), folder, corpus, small, tmp_path
    )
    text = r"50 MB may be taken here; the smallest that would do is [\d,]+ MB \(batches in 8 parts"
    with pytest.raises(ModelError, match=text):
        worker.train(order(1), "t", frame(worker, 1))
