"""Few labels: clients also learn what the global model says of their unlabelled examples.

FeS (Cai, Wang, Wu, Lin and Xu, "Federated Few-shot Learning for Mobile NLP", MobiCom 2023) with
hard pseudo-labels, paced and chosen; LP-FL (Jiang et al., "Low-Parameter Federated Learning with
Large Language Models", 2023) with soft ones. Nothing is kept from round to round: the model that
came down is the teacher, and labels anew what it is asked.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray

from fedloom.core.errors import ConfigError, require
from fedloom.core.seeds import stream
from fedloom.core.types import Briefing, ClientId, LocalWork, Params
from fedloom.tuning.base import Scoring, Session
from fedloom.tuning.learners.backprop import Backprop
from fedloom.tuning.learners.pacing import Pacing, round_up, sampled, surest
from fedloom.tuning.learners.taught import AT_ONCE, Lesson, Taught, said
from fedloom.tuning.learners.vote_k import vote_k
from fedloom.tuning.learning import NOTHING, Assignment, LocalResult

__all__ = ["PseudoLabels"]

Numbers = NDArray[np.int64]
Table = NDArray[np.float32]
CHOICES = ("sampled", "surest")


class PseudoLabels:
    """Backpropagation on labelled examples and on some that the round's model has labelled.

    Args:
        soft: learn the teacher's probabilities (LP-FL); else its most likely class (FeS).
        temperature: the teacher's logits are divided by it; below 1 it speaks more decidedly, so
            that what is soft moves a model that says the same. 1 in both papers.
        pacing: ``fixed`` or ``curriculum``; see `Pacing`, as are the next four.
        count: pseudo-labels of a client in a round, where fixed.
        share: of a client's unlabelled examples, added with every inference of a curriculum.
        every: rounds from one inference to the next, in a curriculum.
        after: rounds on labels alone, before the first inference.
        choose: ``sampled``: in the predicted mix of classes, the surer the likelier (FeS);
            ``surest``: the same share of each predicted class, the surest of it.
        least: predictions of a lower probability become no pseudo-label.
        keep: share of the unlabelled examples that are looked at: a subset that stands for them
            all, by vote-k over the frozen backbone's own features. 1: all.
        neighbours: how many others each example votes for.

    Raises:
        ConfigError: an argument is out of range.
    """

    unlabelled = True
    """It has a use for examples without a label."""

    def __init__(
        self,
        soft: bool = False,
        temperature: float = 1.0,
        pacing: str = "curriculum",
        count: int = 100,
        share: float = 0.1,
        every: int = 1,
        after: int = 0,
        choose: str = "sampled",
        least: float = 0.0,
        keep: float = 1.0,
        neighbours: int = 150,
    ) -> None:
        require(0 < temperature < math.inf, "temperature", temperature, "above 0 and finite")
        require(choose in CHOICES, "choose", choose, f"one of {', '.join(CHOICES)}")
        require(0 <= least < 1, "least", least, "0 or more, below 1")
        require(0 < keep <= 1, "keep", keep, "above 0, at most 1")
        require(neighbours >= 1, "neighbours", neighbours, "1 or more")
        self.soft, self.pacing = soft, Pacing(pacing, count, share, every, after)
        self._temperature, self._choose, self._least = temperature, choose, least
        self._keep, self._neighbours = keep, neighbours
        self._known: dict[ClientId, tuple[Numbers, Numbers]] = {}

    def train(
        self,
        session: Session,
        params: Params,
        work: LocalWork,
        cohort: Sequence[Assignment],
        briefing: Briefing = NOTHING,
    ) -> list[LocalResult]:
        """Train every client of a chunk; results are in the order of `cohort`.

        A client with neither labels nor pseudo-labels has a result of 0 examples.

        Raises:
            ConfigError: the model is no classifier, or not all of it is here.
        """
        if not hasattr(session, "logits"):
            text = "needs a classifier that is whole on the device, of the adapters with parts"
            raise ConfigError(f"learner 'pseudo-labels': {text}")
        began, scoring = time.perf_counter(), cast(Scoring, session)
        lessons = [self._lesson(scoring, params, own) for own in cohort]
        active = [i for i, lesson in enumerate(lessons) if len(lesson.rows)]
        results = {i: _idle(scoring, params, cohort[i]) for i in range(len(cohort))}
        if active:
            taught = Taught(scoring, [lessons[i] for i in active])
            own = [replace(cohort[i], rows=lessons[i].rows) for i in active]
            trained = Backprop().train(taught, params, work, own, briefing)
            results |= dict(zip(active, trained, strict=True))
        seconds = (time.perf_counter() - began) / len(cohort)
        return [_told(results[i], lesson, seconds) for i, lesson in enumerate(lessons)]

    def _lesson(self, session: Scoring, params: Params, own: Assignment) -> Lesson:
        """A client's labelled examples, and those that the model `params` labels for it."""
        labels = session.labels[own.rows]
        known, free = own.rows[labels >= 0], own.rows[labels < 0]
        count = self.pacing.of(own.round, len(free))
        asked = self._candidates(session, own.client, free) if count else free[:0]
        one_hot = np.eye(session.classes, dtype=np.float32)
        given = one_hot[labels[labels >= 0]]
        if not len(asked):
            return Lesson(known, given)
        sure = said(session, params, asked, temperature=self._temperature)
        picked = self._picked(sure, count, own)
        pseudo = sure[picked] if self.soft else one_hot[sure[picked].argmax(axis=1)]
        rows, taught = np.concatenate((known, asked[picked])), np.concatenate((given, pseudo))
        return Lesson(rows, taught, len(picked))

    def _picked(self, sure: Table, count: int, own: Assignment) -> Numbers:
        """Which of the teacher's predictions are learned from."""
        confidence, told = sure.max(axis=1).astype(np.float64), sure.argmax(axis=1)
        if self._choose == "surest":
            picked = surest(confidence, told, count)
        else:
            draw = stream(own.seed, "pseudo-labels", round=own.round, client=own.client)
            picked = sampled(confidence, told, count, draw.uniform(len(told)))
        kept: Numbers = picked[confidence[picked] >= self._least]
        return kept

    def _candidates(self, session: Scoring, client: ClientId, free: Numbers) -> Numbers:
        """The unlabelled examples that the teacher is asked about.

        Frozen features are the same in every round, and so is the choice: it is made once.
        """
        if self._keep == 1:
            return free
        before, chosen = self._known.get(client, (free[:0], free[:0]))
        if not np.array_equal(before, free):
            chosen = self._representative(session, free)
            self._known[client] = free, chosen
        return chosen

    def _representative(self, session: Scoring, free: Numbers) -> Numbers:
        parts = [
            session.features(free[start : start + AT_ONCE]).cpu()
            for start in range(0, len(free), AT_ONCE)
        ]
        features = torch.cat(parts).numpy()
        return free[vote_k(features, round_up(self._keep * len(free)), self._neighbours)]


def _idle(session: Session, params: Params, own: Assignment) -> LocalResult:
    trained = session.store(params, 1).trained
    delta = np.zeros(trained.size, dtype=np.float32)
    return LocalResult(own.client, trained, delta, 0, {}, 0.0, 0.0)


def _told(result: LocalResult, lesson: Lesson, seconds: float) -> LocalResult:
    if not len(lesson.rows):
        return replace(result, seconds=seconds)
    metrics = {**result.metrics, "pseudo": float(lesson.pseudo)}
    return replace(result, metrics=metrics, seconds=seconds)
