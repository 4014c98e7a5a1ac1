"""A model of each client's own beside the global one, held near it.

Ditto: Li, Hu, Beirami and Smith, "Ditto: Fair and Robust Federated Learning Through
Personalization", ICML 2021, https://arxiv.org/abs/2012.04221. The global model is
trained and sent as without it; then the client's own, v_k, of which nothing is ever sent, takes as
many steps from the same batches:

    v_k <- v_k - eta (grad F_k(v_k) + lambda (v_k - theta))
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from fedloom.core.errors import require
from fedloom.core.layout import Layout
from fedloom.core.types import Briefing, LocalWork, Params
from fedloom.tuning.base import Session
from fedloom.tuning.learners.backprop import Backprop
from fedloom.tuning.learning import NOTHING, Assignment, LocalResult
from fedloom.tuning.own import PERSONAL, called, part_of, without

__all__ = ["Ditto"]


class Ditto:
    """Backpropagation of the global model, and of one of the client's own.

    Args:
        near: lambda: how near the own model is held to the global one; 0 trains it apart.

    Raises:
        ConfigError: an argument is out of range.
    """

    keeps = True
    """Clients may have tensors of their own."""

    def __init__(self, near: float = 0.1) -> None:
        require(0 <= near < float("inf"), "near", near, "0 or more, and finite")
        self.near = near

    def remembers(self, sent: Layout) -> Layout:
        """The own model's tensors: one for each that is sent."""
        return called(PERSONAL, sent)

    def train(
        self,
        session: Session,
        params: Params,
        work: LocalWork,
        cohort: Sequence[Assignment],
        briefing: Briefing = NOTHING,
    ) -> list[LocalResult]:
        """As `Backprop.train`, twice; the cost is of both. Without a record nothing is kept."""
        shared = [replace(one, own=one.own and without(PERSONAL, one.own)) for one in cohort]
        results = Backprop().train(session, params, work, shared, briefing)
        if any(one.own is None for one in cohort):
            return results
        own, trained = replace(work, prox_mu=self.near), results[0].layout
        held = [self._apart(one, params, trained) for one in cohort]
        second = Backprop().train(session, params, own, held, briefing)
        records = [one.own for one in cohort if one.own is not None]
        return [_both(*three) for three in zip(results, second, records, strict=True)]

    def _apart(self, one: Assignment, params: Params, trained: Layout) -> Assignment:
        """A client's start for its own model, of the tensors that train in this stage.

        The proximal term holds it near where it starts; the pull makes that the global model:
        ``lambda (v - v_0) + lambda (v_0 - theta)``.
        """
        assert one.own is not None
        mine = part_of(PERSONAL, one.own)
        mine = mine.only(Layout(tuple(spec for spec in mine.layout if spec.name in trained)))
        away = mine.vector - params.only(mine.layout).vector
        kept = without(PERSONAL, one.own)
        own = mine if kept is None else _joined(mine, kept)
        return replace(one, own=own, pull=Params(mine.layout, np.float32(self.near) * away))


def _joined(one: Params, other: Params) -> Params:
    layout = Layout.concat((one.layout, other.layout))
    return Params(layout, np.concatenate((one.vector, other.vector)))


def _both(shared: LocalResult, own: LocalResult, record: Params) -> LocalResult:
    """The result of the global model, with the own model in the record and the cost of both."""
    assert own.kept is not None
    mine = Layout(tuple(s for s in own.kept.layout if f"{PERSONAL}{s.name}" in record.layout))
    moved = Params(called(PERSONAL, mine), own.kept.only(mine).vector)
    kept = record.having(moved)
    return replace(
        shared,
        kept=kept.having(shared.kept) if shared.kept else kept,
        flops=shared.flops + own.flops,
        seconds=shared.seconds + own.seconds,
        tokens=shared.tokens + own.tokens,
        metrics={**shared.metrics, "personal_loss": own.metrics["loss"]},
    )
