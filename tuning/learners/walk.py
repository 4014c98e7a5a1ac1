"""The local steps of a chunk of clients along random directions."""

import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from fedloom.core.errors import ConfigError
from fedloom.core.layout import Layout
from fedloom.core.types import Briefing, LocalWork, Params
from fedloom.tuning.base import Losses, Rows, Session
from fedloom.tuning.learners.choice import Choice, guide_of
from fedloom.tuning.learners.gauge import Gauge
from fedloom.tuning.learners.local_batches import local_batches
from fedloom.tuning.learners.movers import Integers, Mover, Optimized, columns_of
from fedloom.tuning.learners.plain import check_work
from fedloom.tuning.learners.search import Search
from fedloom.tuning.learners.spot import Spot, Trials, segments, trials_of
from fedloom.tuning.learning import Assignment, LocalResult
from fedloom.tuning.needs import memory_of
from fedloom.tuning.sparing import descend

__all__ = ["Walk"]


class Walk:
    """Clients of a chunk between two rounds.

    The gradient of the head needs no estimate. For a softmax classifier it is
    ``x^T (softmax(W x) - y)``, and everything in it is known after the forward pass.

    Args:
        search: how clients search, and what they send.
        gauge: how slopes are found.
        session: the model.
        params: where every client starts.
        work: the numbers of local training.
        cohort: the clients.
        briefing: what the strategy sent beside the model.

    Raises:
        ConfigError: the work asks for what steps along directions have not: momentum, Adam, a
            proximal term; nothing is left to move; or the briefing does not fit.
    """

    def __init__(
        self,
        search: Search,
        gauge: Gauge,
        session: Session,
        params: Params,
        work: LocalWork,
        cohort: Sequence[Assignment],
        briefing: Briefing,
    ) -> None:
        self._began = time.perf_counter()
        self._search, self._gauge = search, gauge
        self._session, self._params = session, params
        self._work, self._cohort = work, cohort
        plans = [list(local_batches(a, work)) for a in cohort]
        self._order = sorted(range(len(cohort)), key=lambda i: (-len(plans[i]), i))
        self._plans = [plans[i] for i in self._order]
        store = self._store = session.store(params, len(cohort))
        self._exact = store.trained.present(search.exact)
        store.trunk = any("head" not in spec.tags for spec in self._exact)
        names = set(self._exact.names)
        self._moved = Layout(tuple(spec for spec in store.trained if spec.name not in names))
        if not self._moved.size:
            raise ConfigError("learner: every tensor that trains is exact; train more than those")
        self._columns = columns_of(store.trained, self._moved).to(store.values.device)
        own = [cohort[i] for i in self._order]
        self._choice = Choice(search, self._moved, own, self._plans, briefing)
        self._mover, self._guide = self._movers(briefing)
        self._sums = torch.zeros(3, len(cohort), dtype=torch.float64)  # loss, correct, count
        self._broken = np.zeros(len(cohort), dtype=bool)

    def _movers(self, briefing: Briefing) -> tuple[Mover, Tensor | None]:
        """What moves the clients, and the guide."""
        search, work, store = self._search, self._work, self._store
        guide = guide_of(briefing, self._moved) if search.guided else None
        kept = None if guide is None else torch.from_numpy(guide).to(store.values.device)
        if search.send == "tensors":
            return Optimized(search, work, store, moved=self._moved, guide=guide), kept
        check_work(work)
        parts, slots = (self._moved, self._exact), [self._choice.slots(n) for n in self._places]
        keys = self._choice.keys
        made = Integers(search, work, store, parts=parts, keys=keys, slots=slots, guide=guide)
        return made, kept

    @property
    def _places(self) -> range:
        return range(len(self._plans))

    def run(self) -> list[LocalResult]:
        """All local steps; what came of them, in the order of the cohort."""
        for step in range(self.steps):
            self.take(step)
        return self.results((time.perf_counter() - self._began) / len(self._cohort))

    @property
    def steps(self) -> int:
        """Local steps of the client that takes most."""
        return len(self._plans[0])

    def take(self, step: int) -> None:
        """One local step of the clients that have not finished."""
        store = self._store
        rows = [plan[step] for plan in self._plans if len(plan) > step]
        near = self._session.over(np.concatenate(rows))
        spot = Spot(near, self._params, store, self._columns)
        if step == 0:
            store.activate(1)
            self._gauge.check(spot, rows[:1])
        store.activate(len(rows))
        here = self._here(spot, rows)
        tokens = sum(self._session.tokens(r) for r in rows)
        at_once = self._gauge.at_once(tokens, store.values.device)
        for chosen in self._choice.trials(step, rows, at_once):
            self._look(spot, trials_of(chosen, store.values.device), here)
        if self._guide is not None:
            self._look_along(self._guide, spot, rows, here)
        self._mover.go(len(rows))

    def _look(self, spot: Spot, trials: Trials, here: Losses) -> None:
        """Find slopes along directions, or along what is left of them beside the guide."""
        along, looked = None, trials
        if self._guide is not None:
            along = trials.z @ self._guide
            looked = replace(trials, z=trials.z - along[:, None] * self._guide)
        slopes = self._gauge.slopes(spot, looked, here)
        self._broken[trials.owner[~np.isfinite(slopes)]] = True
        self._mover.add(trials, slopes, along)

    def _look_along(self, guide: Tensor, spot: Spot, rows: Rows, here: Losses) -> None:
        """Find the slopes along the guide, looked along at a direction's length."""
        k, length = len(rows), len(guide) ** 0.5
        owner = np.arange(k)
        trials = Trials(owner, owner, rows, (length * guide).expand(k, -1), False)
        slopes = self._gauge.slopes(spot, trials, here) / length
        self._broken[:k] |= ~np.isfinite(slopes)
        self._mover.add_guide(slopes)

    def _here(self, spot: Spot, rows: Rows) -> Losses:
        """The losses where the clients stand; exact gradients are left in the store."""
        k = len(rows)
        if self._exact.specs:
            found = descend(spot.session, spot.store, rows)
        else:
            with torch.no_grad():
                found = spot.session.losses(spot.store, rows)
        sums = segments(found.each, found.count).cpu()
        self._sums[:, :k] += torch.stack((sums, found.correct.cpu(), found.count.cpu()))
        return found

    def results(self, seconds: float) -> list[LocalResult]:
        """What came of it, in the order of the cohort; a client's share of `seconds` is known."""
        found: list[LocalResult | None] = [None] * len(self._cohort)
        for n, i in enumerate(self._order):
            found[i] = self._result(n, self._cohort[i], seconds)
        return [result for result in found if result is not None]

    def _result(self, n: int, own: Assignment, seconds: float) -> LocalResult:
        layout, delta, steps = self._mover.sent(n)
        if steps is not None:
            steps = steps.bound(own.seed, round=own.round, client=own.client)
        if self._broken[n]:  # said in the delta, as there may be nothing beside the steps
            layout, steps = self._store.trained, None
            delta = np.full(layout.size, np.nan, dtype=np.float32)
        plan, most = self._plans[n], self._work.max_examples or len(own.rows)
        loss, correct, count = self._sums[:, n].tolist()
        tokens = self._session.tokens(np.concatenate(plan))
        return LocalResult(
            client=own.client,
            layout=layout,
            delta=delta,
            num_examples=min(len(own.rows), most),
            metrics={
                "loss": loss / max(count, 1),
                "accuracy": correct / max(count, 1),
                "forwards": float(len(plan) * self._forwards),
                "clipped": float(self._mover.clipped[n]),
            },
            flops=self._session.flops(tokens) / 2 * self._forwards,
            seconds=seconds,
            tokens=tokens,
            memory=memory_of(
                self._session,
                plan,
                self._store.trained.size,
                self._work,
                backward=bool(self._exact.specs),
            ),
            steps=steps,
        )

    @property
    def _forwards(self) -> int:
        """Forward passes over a batch in one step."""
        looks = self._search.directions + (self._guide is not None)
        return 1 + self._gauge.passes * looks
