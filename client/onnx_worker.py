"""A task into a result without torch: losses by onnxruntime, everything else by numpy."""

from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np

from fedloom.client.finishing import finished_of
from fedloom.client.held import Coming, HeldModel
from fedloom.client.incoming import Incoming
from fedloom.client.manifest import Manifest, Order, layout_of_the_server
from fedloom.client.memory import Budget, allowed, at_rest
from fedloom.client.onnx_ration import OnnxRation, check_whole, learner_of
from fedloom.client.outbox import Finished
from fedloom.client.settings import ClientSettings
from fedloom.client.tiers import Fit, fits
from fedloom.codecs.base import Codec
from fedloom.core.errors import DataError
from fedloom.core.machine import peak_memory
from fedloom.core.registry import create
from fedloom.tuning.asking import task_of
from fedloom.tuning.data import Corpus
from fedloom.tuning.learning import Assignment
from fedloom.tuning.onnx.model import OnnxModel
from fedloom.tuning.ranking import check_trains_ranks

__all__ = ["OnnxWorker"]

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
        check_whole(job)
        task = task_of(job.backbone, self.folder, self.manifest.classes)
        budget = Budget(allowed(self.settings), at_rest())
        model = OnnxModel(self.folder, job.adapter, task, threads=self.settings.threads)
        layout_of_the_server(model.layout, self.manifest)
        self._ration = OnnxRation(model, self.corpus.train, budget)
        self._incoming = Incoming(self.manifest, model.initial(job.seed), self.held)

    def fits(self) -> list[Fit]:
        """How each kind of device would train here."""
        start, examples = self._incoming.start, len(self.corpus.train)
        return fits(self.manifest.job, self._ration, start, examples)

    def train(
        self, order: Order, ticket: str, frame: bytes, coming: Coming = _WHOLE
    ) -> tuple[Finished, bytes]:
        """Do a task of training; as `fedloom.client.worker.Worker` does.

        Raises:
            CodecError: the frame is not of this model.
            TransferError: what comes of the frame is not the server's model (``resync``).
            DataError: the device has no examples to train on.
            ConfigError: the task asks for what only torch does.
            ModelError: it does not fit in the memory that this process may take.
        """
        task, examples = order.task, self.corpus.train
        if not len(examples):
            raise DataError("this device has no training examples")
        asked = task.learner or self.manifest.job.learner
        learner = learner_of(asked)
        if task.rank is not None:
            check_trains_ranks(learner, asked.name)
        params, briefing = self._incoming.received(order, frame, coming)
        rows = np.arange(len(examples))
        own = Assignment(task.client, rows, task.round, task.seed, task.batches)
        result = self._ration.train(task, params, learner, own, briefing)
        codec = cast(Codec, create("codecs", task.codec or self.manifest.job.up(order.stage)))
        done = ticket, task, result, codec
        return finished_of(*done, model=params.layout, received=len(frame))

    def evaluate(
        self, order: Order, ticket: str, frame: bytes, coming: Coming = _WHOLE
    ) -> Finished:
        """Evaluate the global model on the examples held out, or else on those it trains on."""
        params, _ = self._incoming.received(order, frame, coming)
        corpus = self.corpus
        kept = corpus.test if len(corpus.test) else corpus.valid
        examples = kept if len(kept) else corpus.train
        metrics = self._ration.evaluate(order.task, params, examples)
        return Finished(
            ticket,
            num_examples=len(examples),
            metrics=metrics,
            peak_memory=peak_memory(),
            round=order.task.round,
        )
