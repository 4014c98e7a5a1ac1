"""Training over a model that is split: this device's blocks here, the others far away."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from secrets import token_bytes
from typing import Protocol, TypeAlias

import numpy as np

from fedloom.backbones.checkpoint import read_config
from fedloom.backbones.shape import read_shape
from fedloom.backbones.weights import weight_bytes
from fedloom.client.span import RemoteFar, SpanPlan
from fedloom.client.span_stream import Call
from fedloom.core.errors import SplitError
from fedloom.core.job import Job
from fedloom.core.split import session_plan
from fedloom.core.types import Briefing, ClientTask, Params
from fedloom.security.private import read_private, write_file
from fedloom.tuning.base import CohortModel
from fedloom.tuning.cut import Cut, cut_of
from fedloom.tuning.examples import Examples
from fedloom.tuning.far import Far
from fedloom.tuning.fused_model import FusedModel
from fedloom.tuning.guard import guarded
from fedloom.tuning.learning import Assignment, Learner, LocalResult
from fedloom.tuning.noise import SecretNoise
from fedloom.tuning.split_checks import check_split
from fedloom.tuning.split_session import SplitSession
from fedloom.tuning.split_training import SplitTraining, split_of

__all__ = ["Connect", "Remote", "SplitWork", "over_channel"]

_ATTEMPTS = 12
"""How often a leg is sent: over a minute, in which a server is started again."""


class Remote(Far, Protocol):
    """A far side that this device has a session with."""

    def sync(self) -> int:
        """How often the far tensors have stepped, once all that was sent is done."""
        ...

    def close(self) -> object:
        """The session is over."""
        ...

    def drop(self) -> object:
        """End what is under way at once."""
        ...


Connect: TypeAlias = Callable[[SpanPlan], Remote]
"""Begins a session."""


def over_channel(call: Call, sleep: Callable[[float], object]) -> Connect:
    """Sessions over the channel to the server.

    Args:
        call: makes a call of the Split service.
        sleep: waits between attempts.
    """

    def connect(plan: SpanPlan) -> Remote:
        far = RemoteFar(call, plan, attempts=_ATTEMPTS, sleep=sleep)
        far.open()
        return far

    return connect


@dataclass(frozen=True, eq=False)
class SplitWork:
    """What a device does of a job whose model is split.

    Attributes:
        job: the job.
        name: SHA-256 (hex) of its manifest.
        folder: the backbone: the blocks at home, at least.
        connect: begins a session with the far side, for one task.
        secrets: folder for the secret that noise is made of.
        bottom: blocks below the far ones; None for the job's.

    Raises:
        ConfigError: the job's parts do not go with a split model.
    """

    job: Job
    name: str
    folder: Path
    connect: Connect
    secrets: Path
    bottom: int | None = None

    def __post_init__(self) -> None:
        check_split(self.job)

    @cached_property
    def depth(self) -> int:
        """Blocks of the whole model.

        Raises:
            ModelError: it is of no family that can be cut.
        """
        return read_shape(read_config(self.folder)).depth

    @cached_property
    def cut(self) -> Cut:
        """What is far away.

        Raises:
            ConfigError: nothing is left far away.
        """
        return cut_of(self.job.split, self.depth, self.bottom)

    @property
    def held(self) -> frozenset[str]:
        """Names of the blocks at home."""
        return self.cut.home(self.depth)

    def over(self, model: CohortModel, examples: Examples) -> SplitTraining:
        """The model, cut.

        Raises:
            ConfigError: it is of an engine without blocks to cut between.
        """
        whole = split_of(self.job, model, examples)
        assert whole is not None  # this device was told so
        return whole.at(self.bottom)

    def side(self, training: SplitTraining) -> FusedModel:
        """What is at home of a model."""
        return training.model.holding(self.held)

    def said(self, training: SplitTraining) -> str:
        """What is here, in words."""
        backbone = training.model.backbone
        every = {*backbone.blocks, "head"}
        here, whole = (weight_bytes(backbone, found) for found in (every & self.held, every))
        own = sum(name.startswith("layer.") for name in self.held)
        parts = f"{own} of {self.depth} blocks"
        text = f", {parts} and the head" if "head" in self.held else f" and {parts}"
        return f"holds embeddings{text}: {here / 1e6:.0f} MB of {whole / 1e6:.0f} MB"

    def train(
        self,
        learner: Learner,
        training: SplitTraining,
        params: Params,
        task: ClientTask,
        briefing: Briefing,
    ) -> LocalResult:
        """Train what is at home, over a session with the far side.

        Args:
            learner: how.
            training: the model, cut, and the device's examples.
            params: the global model; far tensors are not looked at.
            task: what is asked.
            briefing: what came beside the model.

        Returns:
            What moved at home; a delta of NaN where numbers grew beyond all bounds on the way.

        Raises:
            FedloomError: the far side refuses, or cannot be reached any more. Nothing is under way
                then, here or there.
        """
        noise = SecretNoise(self._secret())
        far = self.connect(self._plan(training.model, task))
        try:
            guard = guarded(far, self.job.split, noise)
            session = SplitSession(
                training.model,
                params,
                task.selectors.train,
                training.examples,
                cut=self.cut,
                fars=[guard],
            )
            result = _trained(learner, session, params, task, len(training.examples), briefing)
            far.sync()
        except BaseException:
            far.drop()
            raise
        far.close()
        return result

    def _secret(self) -> bytes:
        """What this device's noise is made of, always the same: of two noises there is a mean."""
        path = self.secrets / "noise.key"
        if not path.is_file():
            write_file(path, token_bytes(32))
        return read_private(path)

    def _plan(self, model: FusedModel, task: ClientTask) -> SpanPlan:
        from fedloom import __version__

        split = self.job.split
        return SpanPlan(
            session_plan(self.name, task.round),
            self.cut.first,
            self.cut.last,
            model.backbone.dtype,
            split.codec_up,
            split.codec_down,
            task.client,
            task.seed,
            task.round,
            far_labels=self.cut.labels == "far",
            version=__version__,
        )


def _trained(
    learner: Learner,
    session: SplitSession,
    params: Params,
    task: ClientTask,
    count: int,
    briefing: Briefing,
) -> LocalResult:
    assignment = Assignment(task.client, np.arange(count), task.round, task.seed, task.batches)
    began = time.perf_counter()
    try:
        (result,) = learner.train(session, params, task.work, [assignment], briefing)
    except SplitError as error:
        if error.code != "not-finite":
            raise
        layout, seconds = session.store(params, 1).trained, time.perf_counter() - began
        nothing = np.full(layout.size, np.nan, dtype=np.float32)
        return LocalResult(task.client, layout, nothing, count, {}, 0.0, seconds)
    return result
