"""Clients that choose the best of several models, and train that one.

IFCA: Ghosh, Chung, Yin and Ramchandran, "An Efficient Framework for Clustered Federated Learning",
NeurIPS 2020, https://arxiv.org/abs/2006.04088, with model averaging. The strategy of
the same name sends all models; a client takes the one of the lowest loss on the batches that it is
about to train on, the first of equals, trains it, and says which it was. What it remembers is the
model that it chose: that is the one by which it is judged.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedloom.core.errors import ConfigError
from fedloom.core.layout import Layout
from fedloom.core.types import Briefing, LocalWork, Params
from fedloom.tuning.base import Rows, Session
from fedloom.tuning.learners.backprop import Backprop
from fedloom.tuning.learners.local_batches import local_batches
from fedloom.tuning.learning import NOTHING, Assignment, LocalResult
from fedloom.tuning.oracle import Oracle
from fedloom.tuning.own import PERSONAL, called, without

__all__ = ["Clustered"]


class Clustered:
    """Backpropagation from the best of the models that the strategy ``ifca`` sends."""

    correction = "ifca"
    keeps = True
    """Clients may have tensors of their own."""

    def remembers(self, sent: Layout) -> Layout:
        """The chosen model's tensors: one for each that is sent."""
        return called(PERSONAL, sent)

    def train(
        self,
        session: Session,
        params: Params,
        work: LocalWork,
        cohort: Sequence[Assignment],
        briefing: Briefing = NOTHING,
    ) -> list[LocalResult]:
        """As `Backprop.train`, from the chosen model; ``cluster`` among the metrics is its number.

        Raises:
            ConfigError: no models came, or clients keep tensors.
        """
        if any(one.own and without(PERSONAL, one.own) for one in cohort):
            raise ConfigError("keep: clients of the learner 'ifca' take the chosen model whole")
        oracle = Oracle(session, params)
        models = _models(briefing, params).astype(np.float32)
        parts = [params.layout.gather(model, oracle.layout) for model in models]
        start = params.layout.gather(params.vector, oracle.layout)
        changes = torch.from_numpy(np.stack(parts) - start).to(oracle.device)
        losses = _losses(oracle, changes, [list(local_batches(one, work)) for one in cohort])
        chosen = np.nan_to_num(losses, nan=np.inf).argmin(axis=1)
        starts = [
            replace(one, own=Params(oracle.layout, parts[best]))
            for one, best in zip(cohort, chosen, strict=True)
        ]
        results = Backprop().train(session, params, work, starts, briefing)
        return [
            _told(result, one.own, Params(params.layout, models[best]), int(best))
            for result, one, best in zip(results, cohort, chosen, strict=True)
        ]


def _models(briefing: Briefing, params: Params) -> NDArray[np.generic]:
    models, size = briefing.get("clusters"), params.layout.size
    if models is None or models.ndim != 2 or models.shape[1] != size:
        got = "nothing" if models is None else list(models.shape)
        raise ConfigError(f"briefing.clusters: {got}; models [k, {size}], as strategy 'ifca' sends")
    return models


def _losses(oracle: Oracle, changes: Tensor, plans: Sequence[Rows]) -> NDArray[np.float64]:
    """Losses of all models over each client's batches, summed over examples: ``[clients, models]``.

    Args:
        oracle: asked for them.
        changes: from the global model to each of the models, float32 ``[models, P]``.
        plans: the batches of each client.
    """
    losses = np.zeros((len(plans), len(changes)))
    for step in range(max(len(plan) for plan in plans)):
        active = [i for i, plan in enumerate(plans) if len(plan) > step]
        rows = [plans[i][step] for i in active]
        oracle.near(rows)
        found = oracle.ask(rows, changes.expand(len(rows), -1, -1))
        losses[active] += found.losses * found.count[:, None]
    return losses


def _told(result: LocalResult, own: Params | None, model: Params, chosen: int) -> LocalResult:
    """A result that says which model it is of, with the model in the record."""
    kept = None
    if own is not None:
        names = {spec.name.removeprefix(PERSONAL) for spec in own.layout}
        mine = Layout(tuple(spec for spec in model.layout if spec.name in names))
        kept = own.having(Params(called(PERSONAL, mine), model.only(mine).vector))
    metrics = {**result.metrics, "cluster": float(chosen)}
    return replace(result, kept=kept, metrics=metrics)
