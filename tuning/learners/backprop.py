"""Backpropagation through the frozen backbone: local training of a whole cohort at once.

The clients' batches of one step run as one batch. The sum of the clients' mean losses gives each
client's row of the store exactly its own gradient, so the result is what each would reach alone, up
to the order of float additions.
"""

import time
from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedloom.core.types import Briefing, LocalWork, Params
from fedloom.tuning.base import Session
from fedloom.tuning.learners.local_batches import local_batches
from fedloom.tuning.learning import NOTHING, Assignment, LocalResult
from fedloom.tuning.needs import memory_of
from fedloom.tuning.optimizers import optimizer_for
from fedloom.tuning.sparing import descend
from fedloom.tuning.store import Store

__all__ = ["Backprop", "Tilt", "backpropagated"]

Tilt: TypeAlias = Callable[[Store], None]
"""Adds to the gradients of a store's active rows those of what is minimised beside the loss."""


class Backprop:
    """Gradient steps with SGD or AdamW."""

    keeps = True
    """Clients may have tensors of their own."""

    ranks = True
    """Clients may have a part of the adapter's rank: what has no gradient does not move."""

    def train(
        self,
        session: Session,
        params: Params,
        work: LocalWork,
        cohort: Sequence[Assignment],
        briefing: Briefing = NOTHING,
    ) -> list[LocalResult]:
        """Train every client of a chunk; results are in the order of `cohort`.

        A client whose loss is not finite does not disturb the others: its delta says so itself.
        """
        return backpropagated(session, params, work, cohort)


def backpropagated(
    session: Session,
    params: Params,
    work: LocalWork,
    cohort: Sequence[Assignment],
    tilt: Tilt | None = None,
) -> list[LocalResult]:
    """See `Backprop.train`.

    Args:
        session: the model.
        params: where every client starts.
        work: the numbers of local training.
        cohort: the clients.
        tilt: called before every step of the optimizer; None for nothing.
    """
    began = time.perf_counter()
    plans = [list(local_batches(a, work)) for a in cohort]
    most = work.max_examples or max(len(a.rows) for a in cohort)
    order = sorted(range(len(cohort)), key=lambda i: (-len(plans[i]), i))
    store = session.store(params, len(cohort))
    own = [cohort[i].own for i in order]
    store.begin(own)
    store.lean([cohort[i].pull for i in order])
    optimizer = optimizer_for(work, store)
    sums = torch.zeros(3, len(cohort), device=store.values.device)  # loss, correct, count
    for step in range(len(plans[order[0]])):
        active = [i for i in order if len(plans[i]) > step]
        store.activate(len(active))
        losses = descend(session, store, [plans[i][step] for i in active])
        if tilt is not None:
            tilt(store)
        optimizer.step()
        sums[:, : len(active)] += torch.stack(
            (losses.loss * losses.count, losses.correct, losses.count)
        )
    deltas, kept = _on_host(store.deltas()), _kept(own, store)
    loss, correct, count = sums.cpu().numpy()
    seconds = (time.perf_counter() - began) / len(cohort)
    results: list[LocalResult | None] = [None] * len(cohort)
    for place, i in enumerate(order):
        tokens = session.tokens(np.concatenate(plans[i]))
        results[i] = LocalResult(
            client=cohort[i].client,
            layout=store.trained,
            delta=deltas[place],
            num_examples=min(len(cohort[i].rows), most),
            metrics={
                "loss": float(loss[place] / max(count[place], 1)),
                "accuracy": float(correct[place] / max(count[place], 1)),
            },
            flops=session.flops(tokens),
            seconds=seconds,
            tokens=tokens,
            memory=memory_of(session, plans[i], store.trained.size, work, backward=True),
            kept=kept[place],
        )
    return [result for result in results if result is not None]


def _kept(own: Sequence[Params | None], store: Store) -> list[Params | None]:
    """What has become of the tensors that each row had of its own."""
    if all(found is None for found in own):
        return [None] * len(own)
    rows, trained = _on_host(store.values), store.trained
    return [
        None if found is None else Params(found.layout, trained.gather(row, found.layout))
        for row, found in zip(rows, own, strict=True)
    ]


def _on_host(tensor: Tensor) -> NDArray[np.float32]:
    """The tensor in memory; from a GPU through pinned pages, which is ten times as fast."""
    if not tensor.is_cuda:
        return tensor.numpy()
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    return host.copy_(tensor).numpy()
