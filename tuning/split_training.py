"""Cohorts trained over a split model in one process: any learner, over a far side of its own."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from fedloom.core.cuts import CutTable, widest
from fedloom.core.job import Job
from fedloom.core.layout import Layout, Selector, Vector
from fedloom.core.seeds import stream
from fedloom.core.split import SplitConfig
from fedloom.core.types import Briefing, Delta, LocalWork, Params
from fedloom.tuning.activation_codecs import codec_named
from fedloom.tuning.base import CohortModel
from fedloom.tuning.cut import Cut
from fedloom.tuning.cut_needs import cut_table
from fedloom.tuning.examples import Examples
from fedloom.tuning.far import Far
from fedloom.tuning.fused_model import FusedModel
from fedloom.tuning.guard import guarded
from fedloom.tuning.learners.local_batches import local_batches
from fedloom.tuning.learning import Assignment, Learner, LocalResult
from fedloom.tuning.near import Codecs, NearStage
from fedloom.tuning.noise import SeededNoise
from fedloom.tuning.ordering import ALONE, StageOptions
from fedloom.tuning.split_checks import cut_model
from fedloom.tuning.split_session import SplitSession
from fedloom.tuning.stage import Stage

__all__ = ["SplitTraining", "split_of"]


def split_of(job: Job, model: CohortModel, examples: Examples) -> "SplitTraining | None":
    """How a job trains over a split model; None where it does not.

    Raises:
        ConfigError: as `cut_model` says.
    """
    split = job.split
    if split.mode == "none":
        return None
    fused, cut = cut_model(job, model)
    most, table = widest(split, job.tiers), cut_table(job, fused, cut)
    return SplitTraining(fused, examples, cut, split, most, table)


@dataclass(frozen=True, eq=False)
class SplitTraining:
    """How a cohort trains over a split model.

    Attributes:
        model: the whole model.
        examples: the training examples.
        cut: what is far away; see `at`.
        config: how the sides work together.
        most: the most blocks below the far ones that any client has.
        table: what each number of them needs.
    """

    model: FusedModel
    examples: Examples
    cut: Cut
    config: SplitConfig
    most: int
    table: CutTable

    @property
    def shared(self) -> bool:
        """Whether all clients of a round move the same far tensors, and so train in one go."""
        return self.config.mode not in ALONE

    def at(self, bottom: int | None) -> "SplitTraining":
        """The same for clients with so many blocks below the far ones; None: the job's."""
        if bottom is None or bottom == self.cut.first:
            return self
        return replace(self, cut=replace(self.cut, first=bottom))

    def home(self, layout: Layout) -> Layout:
        """Those tensors that clients hold."""
        return self.cut.held(layout, self.model.depth)

    def sent(self, layout: Layout) -> Layout:
        """Those tensors that every client is sent: what one with the most blocks holds."""
        return self.at(self.most).home(layout)

    def train(
        self,
        learner: Learner,
        params: Params,
        train: Selector,
        work: LocalWork,
        cohort: Sequence[Assignment],
        briefing: Briefing,
    ) -> list[LocalResult]:
        """Train clients; results are in the order of `cohort`.

        Those that take most steps stand first, so that the others drop out behind them; in that
        order ``v2`` takes their batches. In ``sequential`` they take turns at random.

        Args:
            learner: how they train at home.
            params: where every client starts.
            train: what trains of the whole model.
            work: the numbers of local training, on both sides.
            cohort: the clients; all of the round's where they share the far tensors.
            briefing: what the strategy sent beside the model.
        """
        options = StageOptions(self.config.mode, recompute=self.config.recompute)
        stage = Stage(self.model, params, train, work, cut=self.cut, options=options)
        run = _Round(self, learner, params, train, work, briefing, stage)
        order = self._order(cohort, work)
        found = run.play([cohort[i] for i in order], alone=getattr(learner, "copies", 1) > 1)
        results: dict[int, LocalResult] = dict(zip(order, found, strict=True))
        return [results[i] for i in range(len(cohort))]

    def _order(self, cohort: Sequence[Assignment], work: LocalWork) -> list[int]:
        if self.config.mode == "sequential":
            first = cohort[0]
            draw = stream(first.seed, "split.turns", round=first.round)
            return [int(i) for i in draw.permutation(len(cohort))]
        steps = [sum(1 for _ in local_batches(a, work)) for a in cohort]
        return sorted(range(len(cohort)), key=lambda i: (-steps[i], i))


@dataclass(frozen=True, eq=False)
class _Round:
    """One round's clients over one far side."""

    split: SplitTraining
    learner: Learner
    params: Params
    train: Selector
    work: LocalWork
    briefing: Briefing
    stage: Stage

    def play(self, cohort: Sequence[Assignment], *, alone: bool) -> list[LocalResult]:
        mode = self.split.config.mode
        if mode == "sequential":
            return self._turns(cohort)
        if mode == "v2" and not alone:
            fars = [self._far([own]) for own in cohort]
            found = self._trained(cohort, fars)
            return self._with_far(found, fars)
        groups = [[own] for own in cohort] if alone else [list(cohort)]
        together = []
        for group in groups:
            far = self._far(group)
            together += self._with_far(self._trained(group, [far]), [far])
        return together

    def _far(self, group: Sequence[Assignment]) -> NearStage:
        config, first = self.split.config, group[0]
        up, down = codec_named(config.codec_up), codec_named(config.codec_down)
        codecs = Codecs(up, down, seed=first.seed, round=first.round)
        return NearStage(self.stage, tuple(own.client for own in group), codecs)

    def _trained(
        self, cohort: Sequence[Assignment], fars: list[NearStage], params: Params | None = None
    ) -> list[LocalResult]:
        split, start = self.split, params or self.params
        session = SplitSession(
            split.model,
            start,
            self.train,
            split.examples,
            cut=split.cut,
            fars=self._guarded(cohort, fars),
        )
        return self.learner.train(session, start, self.work, cohort, self.briefing)

    def _guarded(self, cohort: Sequence[Assignment], fars: Sequence[Far]) -> list[Far]:
        """One far side for all, or one for each, that gets what the job lets it have."""
        groups = [cohort] if len(fars) == 1 else [[own] for own in cohort]
        seed, turn = cohort[0].seed, cohort[0].round
        return [
            guarded(far, self.split.config, SeededNoise(seed, turn, [own.client for own in group]))
            for far, group in zip(fars, groups, strict=True)
        ]

    def _with_far(
        self, found: Sequence[LocalResult], fars: Sequence[NearStage]
    ) -> list[LocalResult]:
        """What moved far away beside what moved at home, and what the legs took."""
        stepped = any(self.stage.version(far.session) for far in fars)
        moved = np.concatenate([far.close().cpu().numpy() for far in fars])
        if len(moved) < len(found):
            moved = moved.repeat(len(found), 0)
        if len(fars) == 1 == len(found):
            up, down = [sum(fars[0].bytes.up)], [sum(fars[0].bytes.down)]
        else:
            up = [n for far in fars for n in far.bytes.up]
            down = [n for far in fars for n in far.bytes.down]
        layout = self.stage.trained
        return [
            replace(
                result,
                far=Delta(layout, own) if stepped and layout.size else None,
                bytes_up=sent,
                bytes_down=got,
            )
            for result, own, sent, got in zip(found, moved, up, down, strict=True)
        ]

    def _turns(self, cohort: Sequence[Assignment]) -> list[LocalResult]:
        """Each begins where the one before has ended; all report where the last one did.

        A client that diverged hands nothing on, and its own report says so.
        """
        now, found = self.params, list[LocalResult]()
        for own in cohort:
            far = self._far([own])
            (result,) = self._with_far(self._trained([own], [far], now), [far])
            found.append(result)
            if np.isfinite(result.delta).all():
                home = now.only(result.layout).vector + result.delta
                now = now.having(Params(result.layout, home))
        return [self._last(result, now, found[-1].far) for result in found]

    def _last(self, result: LocalResult, now: Params, far: Delta | None) -> LocalResult:
        if not np.isfinite(result.delta).all():
            return result
        layout = result.layout
        delta: Vector = now.only(layout).vector - self.params.only(layout).vector
        return replace(result, delta=delta, far=far)
