"""A task into a result without torch: losses by onnxruntime, everything else by numpy."""

from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np

from fedloom.client.finishing import finished_of, peak_memory
from fedloom.client.held import Coming, HeldModel
from fedloom.client.incoming import Incoming
from fedloom.client.manifest import Manifest, Order, layout_of_the_server
from fedloom.client.outbox import Finished
from fedloom.client.settings import ClientSettings
from fedloom.codecs.base import Codec
from fedloom.codecs.exchange import client_update
from fedloom.core.component import Component
from fedloom.core.errors import ConfigError, DataError
from fedloom.core.registry import create
from fedloom.core.types import ClientTask, Cost, Params
from fedloom.tuning.asking import task_of
from fedloom.tuning.data import Corpus, TextExamples
from fedloom.tuning.learners.finite_difference import FiniteDifference
from fedloom.tuning.learning import Assignment
from fedloom.tuning.onnx.model import OnnxModel
from fedloom.tuning.onnx.score import score
from fedloom.tuning.onnx.session import OnnxSession
from fedloom.tuning.onnx.walk import walk

__all__ = ["OnnxWorker"]

_LEARNER = "finite-difference"
_WHOLE = Coming()


@dataclass(eq=False)
class OnnxWorker:
    """Trains by finite differences and evaluates, for one job.

    Attributes:
        manifest: the job.
        folder: its backbone.
        corpus: the device's examples.
        settings: how much of the device it may take.
        held: the model that is kept from one task to the next; None for none.

    Raises:
        ConfigError: the job asks for what only torch does.
        ModelError: the backbone is not one that graphs are made of.
        LayoutError: the model is not the server's.
    """

    manifest: Manifest
    folder: Path
    corpus: Corpus
    settings: ClientSettings
    held: HeldModel | None = None

    def __post_init__(self) -> None:
        job = self.manifest.job
        if job.split.mode != "none":
            text = f"split.mode = {job.split.mode!r}: a device without torch runs whole models"
            raise ConfigError(text)
        task = task_of(job.backbone, self.folder, self.manifest.classes)
        self._model = OnnxModel(self.folder, job.adapter, task, threads=self.settings.threads)
        layout_of_the_server(self._model.layout, self.manifest)
        self._incoming = Incoming(self.manifest, self._model.initial(job.seed), self.held)

    def train(
        self, order: Order, ticket: str, frame: bytes, coming: Coming = _WHOLE
    ) -> tuple[Finished, bytes]:
        """Do a task of training; as `fedloom.client.worker.Worker` does.

        Raises:
            CodecError: the frame is not of this model.
            TransferError: what comes of the frame is not the server's model (``resync``).
            DataError: the device has no examples to train on.
            ConfigError: the task asks for what only torch does.
        """
        task, examples = order.task, self.corpus.train
        if not len(examples):
            raise DataError("this device has no training examples")
        learner = _learner(task.learner or self.manifest.job.learner)
        _check(task)
        params, briefing = self._incoming.received(order, frame, coming)
        session = self._session(params, task, examples)
        rows = np.arange(len(examples))
        own = Assignment(task.client, rows, task.round, task.seed, task.batches)
        result = walk(learner, session, params, task.work, own, briefing)
        codec = cast(Codec, create("codecs", task.codec or self.manifest.job.up(order.stage)))
        update = client_update(
            task,
            result.layout,
            result.delta,
            codec,
            num_examples=result.num_examples,
            metrics=result.metrics,
            cost=Cost(
                bytes_down=len(frame),
                flops=result.flops,
                seconds=result.seconds,
                tokens=result.tokens,
            ),
            model=params.layout,
            steps=result.steps,
        )
        return finished_of(ticket, update, codec.name)

    def evaluate(
        self, order: Order, ticket: str, frame: bytes, coming: Coming = _WHOLE
    ) -> Finished:
        """Evaluate the global model on the examples held out, or else on those it trains on."""
        _check(order.task)
        params, _ = self._incoming.received(order, frame, coming)
        corpus = self.corpus
        kept = corpus.test if len(corpus.test) else corpus.valid
        examples = kept if len(kept) else corpus.train
        session = self._session(params, order.task, examples)
        metrics = score(session, params, cast(TextExamples, examples))
        return Finished(
            ticket,
            num_examples=len(examples),
            metrics=metrics,
            peak_memory=peak_memory(),
            round=order.task.round,
        )

    def _session(self, params: Params, task: ClientTask, examples: object) -> OnnxSession:
        if not isinstance(examples, TextExamples):
            raise ConfigError("backbone.task: a device without torch reads texts only")
        return OnnxSession(self._model, params, task.selectors.train, examples)


def _learner(component: Component) -> FiniteDifference:
    if component.name != _LEARNER:
        text = f"learner.name = {component.name!r}: a device without torch has {_LEARNER!r}"
        raise ConfigError(f"{text}; it can be a tier of its own")
    return cast(FiniteDifference, create("learners", component))


def _check(task: ClientTask) -> None:
    if task.blocks:
        raise ConfigError("blocks: a device without torch runs all of the backbone's blocks")
    if task.selectors.keep:
        text = f"keep = {task.selectors.keep}: a device without torch keeps no tensors of its own"
        raise ConfigError(text)
