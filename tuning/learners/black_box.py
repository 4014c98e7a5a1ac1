"""A client that says how good candidates are, and neither trains nor knows a gradient.

The candidates come down beside the model, the same for all clients; all of a client's see the same
examples (BBT: Sun et al., ICML 2022, section 3). What goes up is one integer for each.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from fedloom.core.errors import CodecError, require
from fedloom.core.layout import Layout
from fedloom.core.scalars import LIMIT, step_for
from fedloom.core.steps import Directions, Steps
from fedloom.core.subspaces import Subspace
from fedloom.core.types import Briefing, LocalWork, Params
from fedloom.tuning.base import Rows, Session
from fedloom.tuning.learners.local_batches import local_batches
from fedloom.tuning.learning import NOTHING, Assignment, LocalResult
from fedloom.tuning.needs import memory_of
from fedloom.tuning.oracle import AT_ONCE, Oracle

__all__ = ["BlackBox"]

Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class BlackBox:
    """Losses of the strategy's candidates, by forward passes only; for the strategy ``bbtv2``.

    A candidate's loss is given relative to that of the model as it is, over the client's batches of
    the round: what is common to all candidates says nothing of them, and costs bits. A candidate
    whose loss is not finite counts as the worst that can be sent.

    Attributes:
        largest: difference that the largest scalar stands for.

    Raises:
        ConfigError: it is not positive and finite.
    """

    kernel_needs = ("fd_safe",)
    answers = True
    """It trains nothing: it answers what a strategy asks."""

    largest: float = 2.0

    def __post_init__(self) -> None:
        require(0 < self.largest < float("inf"), "largest", self.largest, "above 0 and finite")

    @property
    def copies(self) -> int:
        """Rows that run at once for each client."""
        return AT_ONCE

    def train(
        self,
        session: Session,
        params: Params,
        work: LocalWork,
        cohort: Sequence[Assignment],
        briefing: Briefing = NOTHING,
    ) -> list[LocalResult]:
        """Evaluate the candidates in `briefing`; without any, the model as it is.

        Raises:
            CodecError: the briefing is not one of candidates.
        """
        began = time.perf_counter()
        oracle = Oracle(session, params)
        found = _changes(oracle.layout, briefing, cohort[0].seed)
        changes = torch.from_numpy(found).to(oracle.device)
        plans = [list(local_batches(own, work)) for own in cohort]
        sums = _Sums(len(cohort), len(changes))
        for step in range(max(len(plan) for plan in plans)):
            active = [i for i, plan in enumerate(plans) if len(plan) > step]
            rows: Rows = [plans[i][step] for i in active]
            oracle.near(rows)
            here = oracle.here(rows)
            there = oracle.ask(rows, changes.expand(len(rows), -1, -1))
            sums.add(active, here.losses, there.losses, here.count, here.correct)
        seconds = (time.perf_counter() - began) / len(cohort)
        return [
            self._result(session, work, own, plan, sums.of(i), oracle.layout, seconds)
            for i, (own, plan) in enumerate(zip(cohort, plans, strict=True))
        ]

    def _result(
        self,
        session: Session,
        work: LocalWork,
        own: Assignment,
        plan: Rows,
        sums: "_Mean",
        layout: Layout,
        seconds: float,
    ) -> LocalResult:
        forwards = (1 + len(sums.changes)) * len(plan)
        steps = self._steps(layout, sums)
        if steps is not None:
            steps = steps.bound(own.seed, round=own.round, client=own.client)
        tokens = session.tokens(np.concatenate(plan))
        # Without any finite loss there is nothing to send: NaN is what no codec sends.
        rest = layout if steps is None else Layout(())
        return LocalResult(
            client=own.client,
            layout=rest,
            delta=np.full(rest.size, np.nan, dtype=np.float32),
            num_examples=min(len(own.rows), work.max_examples or len(own.rows)),
            metrics={"loss": sums.loss, "accuracy": sums.accuracy, "forwards": float(forwards)},
            flops=session.flops(tokens) / 2 * (1 + len(sums.changes)),
            seconds=seconds,
            tokens=tokens,
            memory=memory_of(session, plan, layout.size, work, backward=False),
            steps=steps,
        )

    def _steps(self, layout: Layout, sums: "_Mean") -> Steps | None:
        if not np.isfinite(sums.loss):
            return None
        worth = step_for(self.largest)
        whole = np.rint(np.nan_to_num(sums.changes, nan=np.inf) / worth)
        scalars = np.clip(whole, -LIMIT, LIMIT).astype(np.int32)
        return Steps(layout, scalars, worth, Directions("shared"))


@dataclass(frozen=True)
class _Mean:
    """Of one client: its loss and accuracy, and the candidates' differences ``[n]``."""

    loss: float
    accuracy: float
    changes: Numbers


class _Sums:
    """Losses over the batches of several clients."""

    def __init__(self, clients: int, candidates: int) -> None:
        self._here = np.zeros(clients)
        self._there = np.zeros((clients, candidates))
        self._count = np.zeros(clients)
        self._correct = np.zeros(clients)

    def add(
        self, active: list[int], here: Numbers, there: Numbers, count: Numbers, correct: Numbers
    ) -> None:
        with np.errstate(invalid="ignore"):  # infinity minus infinity: NaN, the worst there is
            self._there[active] += (there - here) * count[:, None]
        self._here[active] += here[:, 0] * count
        self._count[active] += count
        self._correct[active] += correct[:, 0]

    def of(self, i: int) -> _Mean:
        count = max(self._count[i], 1.0)
        return _Mean(
            float(self._here[i] / count), float(self._correct[i] / count), self._there[i] / count
        )


def _changes(layout: Layout, briefing: Briefing, seed: int) -> NDArray[np.float32]:
    """What the candidates change, ``[n, P]``; no change where none came."""
    if "points" not in briefing:
        return np.zeros((1, layout.size), dtype=np.float32)
    try:
        points = np.asarray(briefing["points"])
        first, pool = int(briefing["first"][0]), int(briefing["pool"][0])
        family = "gaussian" if briefing["gaussian"][0] else "rademacher"
        worth = float(briefing["worth"][0])
        count, k = points.shape
    except (KeyError, IndexError, ValueError) as error:
        raise CodecError(f"briefing: not candidates of a search: {error}") from error
    whole = np.issubdtype(points.dtype, np.integer)
    if not whole or not count or not np.isfinite(worth):
        text = f"points {points.dtype} {list(points.shape)} in steps of {worth}"
        raise CodecError(f"briefing: {text}; integers [n, k] in finite steps are allowed")
    subspace = Subspace(layout, Directions("pool", pool, family), first, k, worth)
    return subspace.changes(points.astype(np.int64), seed)
