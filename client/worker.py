"""A task into a result: what the simulator does with a chunk, for one client. Loads torch."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

import numpy as np
import torch

from fedloom.backbones.allocator import keep_few_shapes, keep_large_blocks
from fedloom.client.finishing import finished_of
from fedloom.client.held import Coming, HeldModel
from fedloom.client.incoming import Incoming
from fedloom.client.logs import log
from fedloom.client.manifest import Manifest, Order, layout_of_the_server
from fedloom.client.memory import Budget, allowed, at_rest
from fedloom.client.outbox import Finished
from fedloom.client.personal import OwnTensors
from fedloom.client.ration import Ration
from fedloom.client.settings import ClientSettings
from fedloom.client.split_work import SplitWork
from fedloom.client.tiers import Fit, fits
from fedloom.codecs.base import Codec
from fedloom.core.errors import ConfigError, DataError
from fedloom.core.layout import Layout
from fedloom.core.machine import peak_memory
from fedloom.core.ranks import limited
from fedloom.core.registry import create
from fedloom.core.types import (
    Briefing,
    Params,
)
from fedloom.tuning.base import CohortModel, Session
from fedloom.tuning.build import model_of
from fedloom.tuning.capacity import choose_device
from fedloom.tuning.data import Corpus
from fedloom.tuning.evaluate import evaluate
from fedloom.tuning.examples import Examples
from fedloom.tuning.learning import IDLE, Assignment, Learner, LocalResult
from fedloom.tuning.own import held_tensors, holds, own_model
from fedloom.tuning.prepare import dtype_of
from fedloom.tuning.ranking import check_trains_ranks
from fedloom.tuning.split_training import SplitTraining
from fedloom.tuning.stage_session import StageSession

__all__ = ["Worker"]

_WHOLE = Coming()


@dataclass(eq=False)
class Worker:
    """Trains and evaluates for one job.

    Attributes:
        manifest: the job.
        folder: its backbone.
        corpus: the device's examples.
        settings: how much of the device it may take.
        scratch: folder for temporary files.
        held: the model that is kept from one task to the next; None for none.
        split: how tasks over a split model are done; None where all of the model is here.
    """

    manifest: Manifest
    folder: Path
    corpus: Corpus
    settings: ClientSettings
    scratch: Path
    held: HeldModel | None = None
    split: SplitWork | None = None
    _sessions: dict[int, StageSession] = field(default_factory=dict)

    def __post_init__(self) -> None:
        job = self.manifest.job
        keep_large_blocks()
        keep_few_shapes()
        torch.set_num_threads(self.settings.threads or torch.get_num_threads())
        self._device = choose_device(self.settings.device)
        budget = Budget(allowed(self.settings), at_rest())
        self._model = self._built()
        self._ration = Ration(
            self._model,
            self.corpus.train,
            self.settings,
            device=self._device,
            budget=budget,
            scratch=self.scratch,
        )
        self._training: SplitTraining | None = None
        if self.split is not None:
            self._training = self.split.over(self._model, self.corpus.train)
            log.info("%s", self.split.said(self._training))
        self._start = self._model.initial(job.seed)
        incoming = Incoming(self.manifest, self._start, self.held)
        if self._training is not None:  # the far side has its own tensors
            incoming = replace(incoming, sent=self._training.sent)
        self._incoming = incoming

    def _built(self) -> CohortModel:
        job = self.manifest.job
        dtype = dtype_of(job.backbone, self._device, log.debug)
        classes = self.manifest.classes
        held = None if self.split is None else self.split.held
        model = model_of(job, self.folder, classes, dtype=dtype, device=self._device, held=held)
        layout_of_the_server(model.layout, self.manifest)
        return model

    def train(
        self, order: Order, ticket: str, frame: bytes, coming: Coming = _WHOLE
    ) -> tuple[Finished, bytes]:
        """Do a task of training.

        Args:
            order: what is asked.
            ticket: whose result it is.
            frame: the global model's exchanged part, or what leads to it.
            coming: what the server says of it.

        Returns:
            The result and its payload; empty where training diverged.

        Raises:
            CodecError: the frame is not of this model.
            TransferError: what comes of the frame is not the server's model (``resync``).
            DataError: the device has no examples to train on.
            ModelError: it does not fit in the memory that this process may take, in whatever way.
            ConfigError, LayoutError: the order names what the model does not have.
        """
        task = order.task
        if not len(self.corpus.train):
            raise DataError("this device has no training examples")
        params, briefing = self._incoming.received(order, frame, coming)
        params = limited(params, task.rank)
        asked = task.learner or self.manifest.job.learner
        learner = cast(Learner, create("learners", asked))
        if task.rank is not None:
            check_trains_ranks(learner, asked.name)
        result = self._trained(order, learner, params, briefing)
        if not result.num_examples:
            raise DataError(IDLE)
        codec = cast(Codec, create("codecs", task.codec or self.manifest.job.up(order.stage)))
        own = ticket, task, result, codec
        return finished_of(*own, model=params.layout, received=len(frame))

    def fits(self) -> list[Fit]:
        """How each kind of device would train here."""
        return fits(self.manifest.job, self._ration, self._start, len(self.corpus.train))

    def _trained(
        self, order: Order, learner: Learner, params: Params, briefing: Briefing
    ) -> LocalResult:
        task, examples = order.task, self.corpus.train
        split, training = self.split, self._training
        if split is not None and training is not None:
            if task.blocks:
                raise ConfigError("blocks: a device of a split model runs all of its own")
            side = split.side(training)
            self._ration.check(side, float(side.token_counts(examples).mean()), task.work)
            return split.train(learner, training, params, task, briefing)
        rows = np.arange(len(examples))
        own = self._own(order, params, before=task.round)
        own = own and limited(own, task.rank)
        mine = task.round, task.seed, task.batches, own
        assignment = Assignment(task.client, rows, *mine, rank=task.rank)
        doing = task, params, learner, assignment, briefing
        result = self._ration.train(*doing, lambda: self._session(order, params))
        if result.kept is not None and result.whole:
            self._kept(result.kept.layout).keep(task.round, result.kept)
        return result

    def _own(self, order: Order, params: Params, *, before: int) -> Params | None:
        """What this device holds for itself in the stage of an order, as before a round."""
        job = self.manifest.job
        if not holds(job, order.stage):
            return None
        return self._kept(held_tensors(job, params.layout)).before(before, params)

    def _kept(self, layout: Layout) -> OwnTensors:
        return OwnTensors(self.scratch / "personal", self.manifest, layout)

    def evaluate(
        self, order: Order, ticket: str, frame: bytes, coming: Coming = _WHOLE
    ) -> Finished:
        """Evaluate the global model on the device's own examples.

        On those held out, where there are any, and else on those that it trains on. Where the
        device keeps tensors, also the global model with these, as ``personal_NAME``.

        Args:
            order: as in `train`, as are the others.
            ticket: whose result it is.
            frame: the global model's exchanged part, or what leads to it.
            coming: what the server says of it.

        Raises:
            ConfigError: only a part of the model is here.
        """
        if self.split is not None:
            text = "this device has only some blocks of the model, and cannot evaluate it"
            raise ConfigError(f"split.mode = {self.manifest.job.split.mode!r}: {text}")
        params, _ = self._incoming.received(order, frame, coming)
        corpus = self.corpus
        held = corpus.test if len(corpus.test) else corpus.valid
        examples: Examples = held if len(held) else _labelled(corpus.train)
        if not len(examples):
            raise DataError("this device has no labelled examples to evaluate on")
        session = self._model.session(params, order.task.selectors.train, examples)
        tokens = self._ration.evaluated_at_once(session)
        metrics = dict(evaluate(session, params, examples, batch_tokens=tokens).metrics)
        own = self._own(order, params, before=order.task.round + 1)
        if mine := own and own_model(params, own):
            told = evaluate(session, mine, examples, batch_tokens=tokens).metrics
            metrics |= {f"personal_{name}": value for name, value in told.items()}
        return Finished(
            ticket,
            num_examples=len(examples),
            metrics=metrics,
            peak_memory=peak_memory(),
            round=order.task.round,
        )

    def _session(self, order: Order, params: Params) -> Session:
        stage = order.stage
        if stage not in self._sessions:
            self._sessions = {stage: self._stage_session(stage)}  # those of earlier ones are done
        return self._sessions[stage].of(params, order.task.selectors.train)

    def _stage_session(self, index: int) -> StageSession:
        stage, examples = self.manifest.job.stages[index], self.corpus.train
        passes = 1 if stage.local.steps else stage.local.epochs
        keep = stage.rounds * passes > 1
        session = self._ration.activations.session
        return StageSession(lambda params, train: session(params, train, examples, keep=keep))


def _labelled(examples: Examples) -> Examples:
    labels = examples.labels
    return examples if labels is None else examples.take(np.flatnonzero(labels >= 0))
