"""A split model to measure: both sides of it, and what they train on."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Self

import numpy as np
import torch

from fedloom.backbones.allocator import keep_large_blocks
from fedloom.client.channel import Channel
from fedloom.client.span import RemoteFar, SpanPlan
from fedloom.core.component import Component
from fedloom.core.types import LocalWork, Params
from fedloom.server.split_host import Terms
from fedloom.tuning.base import Task
from fedloom.tuning.build import build_model
from fedloom.tuning.cut import Cut
from fedloom.tuning.examples import TextExamples
from fedloom.tuning.fused_model import FusedModel
from fedloom.tuning.ordering import StageOptions
from fedloom.tuning.stage import Stage

__all__ = ["TRAIN", "Asked", "Sides", "far_of"]

TRAIN = ("*",)
CLASSES = 2


@dataclass(frozen=True)
class Asked:
    """What is measured.

    Attributes:
        folder: of the model.
        bottom: blocks below the far ones.
        top: blocks above them; with the labels far away none.
        labels: ``home`` (four legs) or ``far`` (two).
        mode: of the far side.
        batch: sequences of a client's step.
        tokens: of each sequence.
        codec: of all legs.
        clients: at once.
        threads: of the products, on each side.
        steps: of a block of steps that is timed as one.
        repeats: of each block, in turn with those that it is compared with.
        device: of the far side.
        computes: the far side does its work; else it sends back what came.
    """

    folder: str
    bottom: int = 2
    top: int = 1
    labels: str = "home"
    mode: str = "v1"
    batch: int = 16
    tokens: int = 128
    codec: str = "float32"
    clients: int = 1
    threads: int = 2
    steps: int = 4
    repeats: int = 5
    device: str = "cpu"
    computes: bool = True

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what `to_json` wrote."""
        return cls(**json.loads(text))

    def to_json(self) -> str:
        """Write as one line, for a command line."""
        return json.dumps(asdict(self))


@dataclass(frozen=True)
class Sides:
    """A model, and where it is cut.

    Attributes:
        asked: what is measured.
        model: the whole model.
        params: its tensors at the start.
    """

    asked: Asked
    model: FusedModel
    params: Params

    @classmethod
    def load(cls, asked: Asked, device: str = "cpu") -> Self:
        """Read the model, for one side or both, and set the number of threads."""
        torch.set_num_threads(asked.threads)
        keep_large_blocks()
        model = build_model(
            Path(asked.folder),
            Component("lora", {"rank": 8}),
            Task("classify", CLASSES, "mean"),
            dtype=torch.float32,
            device=torch.device(device),
            engine="fused",
        )
        if not isinstance(model, FusedModel):
            raise TypeError(f"{asked.folder}: no model of the fused engine")
        return cls(asked, model, model.initial(0))

    @cached_property
    def cut(self) -> Cut:
        """Where it is cut."""
        top = 0 if self.asked.labels == "far" else self.asked.top
        return Cut(self.asked.bottom, self.model.depth - top, self.asked.labels)

    @cached_property
    def terms(self) -> Terms:
        """What the far side takes."""
        cut, width = self.cut, self.width
        far, sessions = cut.labels == "far", 2 * self.asked.clients + 8
        return Terms("measured", cut.first, cut.last, width, labels=far, sessions=sessions)

    @property
    def work(self) -> LocalWork:
        """The optimizer, and how many steps a block of them has."""
        return LocalWork(steps=self.asked.steps, batch_size=self.asked.batch, lr=1e-3)

    def stage(self) -> Stage:
        """The far side."""
        options = StageOptions(self.asked.mode)
        return Stage(self.model, self.params, TRAIN, self.work, cut=self.cut, options=options)

    def examples(self) -> TextExamples:
        """As many sequences as a block of steps sees."""
        draws = np.random.default_rng(3)
        count, tokens = self.asked.batch * self.asked.steps, self.asked.tokens
        ids = draws.integers(1000, 20_000, count * tokens).astype(np.int32)
        offsets = np.arange(0, len(ids) + 1, tokens)
        return TextExamples(ids, offsets, labels=draws.integers(0, CLASSES, count))

    @property
    def width(self) -> int:
        """Of hidden states."""
        return self.model.backbone.shape.width

    def plan(self) -> SpanPlan:
        """What a session is opened with."""
        cut, codec = self.cut, self.asked.codec
        far = cut.labels == "far"
        return SpanPlan(self.terms.plan, cut.first, cut.last, up=codec, down=codec, far_labels=far)


@contextmanager
def far_of(port: int, plan: SpanPlan, client: str = "device") -> Iterator[RemoteFar]:
    """The far side behind a port, on a connection of its own; the session is open."""
    channel = Channel("127.0.0.1", port, name=client)
    try:
        found = RemoteFar(channel.split, replace(plan, client=client))
        found.open()
        yield found
        found.close()
    finally:
        channel.close()
