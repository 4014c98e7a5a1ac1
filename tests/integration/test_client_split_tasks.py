"""Tasks of a device that has some blocks of a model: what it says, refuses, and leaves behind."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from near_sides import Near
from small_jobs import labelled_rows

from fedloom.client.manifest import Manifest, Order
from fedloom.client.settings import ClientSettings
from fedloom.client.span import SpanPlan
from fedloom.client.split_work import SplitWork
from fedloom.client.stopping import Stopped
from fedloom.client.worker import Worker
from fedloom.codecs.dense import Float32
from fedloom.codecs.exchange import sent_down
from fedloom.core.errors import CodecError, ConfigError, ModelError, SplitError
from fedloom.core.job import Job, job_from
from fedloom.core.layout import ALL, Layout
from fedloom.core.types import ClientTask, LocalWork, Payload, Selectors
from fedloom.tuning.activation_codecs import codec_named
from fedloom.tuning.build import model_of
from fedloom.tuning.cut import Cut
from fedloom.tuning.data import own_examples
from fedloom.tuning.fused_model import FusedModel
from fedloom.tuning.near import Codecs, NearStage
from fedloom.tuning.ordering import StageOptions
from fedloom.tuning.reading import reading_of
from fedloom.tuning.stage import Stage

SETTINGS = ClientSettings(threads=1, device="cpu", cache_gb=0.0)
NAME = "a" * 64  # of the job's manifest
CLASSES = ("field", "harbour", "treasury")


@dataclass
class One:
    """One device, and the far side that it has a session with."""

    folder: Path
    scratch: Path
    split: dict[str, Any] = field(default_factory=lambda: {"mode": "v1", "bottom": 1, "top": 1})
    before: Callable[[str], object] = lambda _: None
    changes: dict[str, Any] = field(default_factory=dict)
    nears: list[Near] = field(default_factory=list)

    @property
    def job(self) -> Job:
        table = {
            "backbone": {"max_tokens": 32, "head_init": "normal"},
            "data": {"split": "split", "classes": CLASSES},
            "adapter": {"name": "lora", "rank": 2},
            "split": self.split,
        }
        return job_from(table | self.changes)

    @property
    def whole(self) -> FusedModel:
        cpu = torch.device("cpu")
        model = model_of(self.job, self.folder, ("a", "b", "c"), dtype=torch.float32, device=cpu)
        assert isinstance(model, FusedModel)
        return model

    def connect(self, plan: SpanPlan) -> Near:
        model = self.whole
        cut = Cut(plan.first, plan.last, "far" if plan.far_labels else "home")
        start, options = model.initial(0), StageOptions("v1")
        stage = Stage(model, start, ALL, task().work, cut=cut, options=options)
        codec = codec_named("float32")
        near = NearStage(stage, (plan.client,), Codecs(codec, codec))
        self.nears.append(Near(near, stage, self.before))
        return self.nears[-1]

    def worker(self, settings: ClientSettings = SETTINGS) -> Worker:
        job = self.job
        config = replace(job.data, classes=CLASSES)
        rows = labelled_rows(12, clients=1)
        corpus = own_examples(rows, config, reading_of(job.backbone, self.folder))
        manifest = Manifest("f", job, CLASSES, self.whole.layout.digest, ())
        work = SplitWork(job, NAME, self.folder, self.connect, self.scratch)
        return Worker(manifest, self.folder, corpus, settings, self.scratch, split=work)

    def frame(self) -> bytes:
        model = self.whole
        part = Layout(tuple(spec for spec in model.layout if spec.block != "layer.1"))
        return sent_down(model.initial(0), Float32(), part, version=0).frame


def task(**work: Any) -> ClientTask:
    return ClientTask("c", 1, 0, LocalWork(**{"batch_size": 4, **work}), Selectors(), seed=0)


@pytest.fixture
def one(text_model: dict[str, Path], tmp_path: Path) -> One:
    return One(text_model["classify"], tmp_path)


def test_it_says_what_it_holds(one: One, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="fedloom.client"):
        one.worker()
    # Of 32 wide tensors: see `fedloom.backbones.weights`; the numbers are below a tenth of a MB.
    assert "holds embeddings, 2 of 3 blocks and the head: 0 MB of 0 MB" in caplog.messages


def test_only_what_is_at_home_comes_up(one: One) -> None:
    finished, payload = one.worker().train(Order(task(), 0), "t", one.frame())
    home = Layout(tuple(spec for spec in one.whole.layout if spec.block != "layer.1"))
    delta = Float32().decode(Payload("float32", payload), home)
    assert np.abs(delta.vector).max() > 0
    assert finished.num_examples == 10


def test_a_model_with_the_far_tensors_is_not_taken(one: One) -> None:
    model = one.whole
    frame = sent_down(model.initial(0), Float32(), model.layout, version=0).frame
    with pytest.raises(CodecError, match="expected"):
        one.worker().train(Order(task(), 0), "t", frame)
    assert one.nears == []  # nobody was asked


def test_part_of_a_model_cannot_be_evaluated(one: One) -> None:
    with pytest.raises(ConfigError, match="has only some blocks of the model, and cannot evalu"):
        one.worker().evaluate(Order(task(), 0), "t", one.frame())


def test_memory_is_that_of_the_blocks_at_home(one: One) -> None:
    model = one.whole
    assert model.holding({"layer.0", "layer.2"}).bytes_per_token * 3 == 2 * model.bytes_per_token
    worker = one.worker(replace(SETTINGS, memory="1kB"))
    with pytest.raises(ModelError, match=r"a batch of 4 needs about .* MB; training may take"):
        worker.train(Order(task(), 0), "t", one.frame())
    assert one.nears == []


def test_noise_is_of_a_secret_that_stays(one: One) -> None:
    one.split |= {"clip": 1.0, "noise": 0.5}
    worker, frame = one.worker(), one.frame()
    payloads = {worker.train(Order(task(), 0), "t", frame)[1] for _ in range(2)}
    payloads.add(one.worker().train(Order(task(), 0), "t", frame)[1])
    assert len(payloads) == 1  # of two noises on the same states there would be a mean
    assert (one.scratch / "noise.key").stat().st_mode & 0o777 == 0o600
    one.split |= {"noise": 0.0}
    assert one.worker().train(Order(task(), 0), "t", frame)[1] not in payloads


def test_numbers_beyond_all_bounds_make_no_update(one: One) -> None:
    def refuse(what: str) -> None:
        if what == "backward":
            raise SplitError("step 1: what came is not finite", code="not-finite")

    one.before = refuse
    finished, payload = one.worker().train(Order(task(), 0), "t", one.frame())
    assert (payload, finished.size, finished.num_examples) == (b"", 0, 10)
    assert one.nears[0].calls[-2:] == ["sync", "close"]


@pytest.mark.parametrize(
    "error", [SplitError("the round is over", code="plan"), Stopped(), KeyError("x")]
)
def test_what_ends_training_ends_the_session(one: One, error: BaseException) -> None:
    def end(what: str) -> None:
        if what == "backward":
            raise error

    one.before = end
    worker, frame = one.worker(), one.frame()
    with pytest.raises(type(error)):
        worker.train(Order(task(), 0), "t", frame)
    assert one.nears[0].calls == ["forward", "backward", "drop"]
    one.before = lambda _: None
    assert worker.train(Order(task(), 0), "t", frame)[0].size > 0  # it goes on


@pytest.mark.parametrize(
    ("split", "changes", "text"),
    [
        ({"bottom": 3}, {}, "3 blocks below and 1 above leave none of 3 far away"),
        ({"codec_up": "int4"}, {}, "activation codec 'int4'"),
        ({}, {"learner": {"name": "forward-gradient"}}, "a split model .* goes with backprop"),
        (
            {},
            {"learner": {"name": "finite-difference"}, "codec_up": {"name": "scalars"}},
            "a split model .* is not followed by its steps",
        ),
    ],
)
def test_what_a_job_cannot_ask(
    one: One, split: dict[str, Any], changes: dict[str, Any], text: str
) -> None:
    one.split |= split
    one.changes = changes
    with pytest.raises(ConfigError, match=text):
        one.worker()
