"""Cohorts trained over a split model in one process, to compare with the whole model."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from cohorts import CPU, Case, Folders
from numpy.typing import NDArray

from fedloom.core.layout import Selector
from fedloom.core.registry import Component
from fedloom.core.types import LocalWork, Params
from fedloom.tuning.activation_codecs import codec_named
from fedloom.tuning.build import build_model
from fedloom.tuning.cut import Cut
from fedloom.tuning.examples import Examples
from fedloom.tuning.fused_model import FusedModel
from fedloom.tuning.learners.backprop import Backprop
from fedloom.tuning.learning import Assignment, LocalResult
from fedloom.tuning.near import Codecs, NearStage
from fedloom.tuning.ordering import StageOptions
from fedloom.tuning.split_session import SplitSession
from fedloom.tuning.stage import Stage

ALL: Selector = ("*",)


def fused(case: Case, folders: Folders, dtype: torch.dtype) -> FusedModel:
    folder = case.folder(folders)
    adapter = Component("lora", {"rank": 4})
    model = build_model(folder, adapter, case.task, dtype=dtype, device=CPU, engine="fused")
    assert isinstance(model, FusedModel)
    return model


def cuts(depth: int) -> list[Cut]:
    """Every cut with four legs, and every cut with two."""
    four = [Cut(a, b) for a in range(depth) for b in range(a + 1, depth + 1)]
    return four + [Cut(a, depth, "far") for a in range(depth)]


@dataclass
class Split:
    """A model, a far side, and how numbers travel between them."""

    model: FusedModel
    params: Params
    examples: Examples
    cut: Cut
    codec: str = "float32"
    train: Selector = ALL

    def stage(self, work: LocalWork, options: StageOptions) -> Stage:
        model = self.model
        return Stage(model, self.params, self.train, work, cut=self.cut, options=options)

    def session(self, fars: Sequence[NearStage]) -> SplitSession:
        model = self.model
        return SplitSession(model, self.params, self.train, self.examples, cut=self.cut, fars=fars)

    def codecs(self) -> Codecs:
        codec = codec_named(self.codec)
        return Codecs(codec, codec, seed=5, round=1)

    def at_once(
        self, cohort: Sequence[Assignment], work: LocalWork, options: StageOptions
    ) -> tuple[list[LocalResult], NearStage]:
        """All clients step together; each result holds what moved on both sides."""
        stage = self.stage(work, options)
        far = NearStage(stage, tuple(a.client for a in cohort), self.codecs())
        results = Backprop().train(self.session([far]), self.params, work, cohort)
        moved = far.close().numpy()
        whole = moved.repeat(len(cohort), 0) if len(moved) == 1 else moved
        return [self.joined(r, stage, own) for r, own in zip(results, whole, strict=True)], far

    def joined(self, result: LocalResult, stage: Stage, moved: NDArray[np.float32]) -> LocalResult:
        layout = self.model.layout
        zeros = np.zeros(layout.size, dtype=np.float32)
        home = layout.scatter(zeros, result.layout, result.delta)
        return replace(result, layout=layout, delta=layout.scatter(home, stage.trained, moved))
