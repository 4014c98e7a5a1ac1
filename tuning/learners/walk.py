"""The local steps of a chunk of clients along random directions, with forward passes only."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedloom.core.errors import ConfigError, LayoutError, require
from fedloom.core.layout import Layout, Selector
from fedloom.core.perturbation_keys import DIRECTIONS
from fedloom.core.seeds import stream
from fedloom.core.steps import FAMILIES, Steps
from fedloom.core.types import LocalWork, Params
from fedloom.tuning.base import Losses, Rows, Session
from fedloom.tuning.learners.backprop import local_batches
from fedloom.tuning.learning import Assignment, LocalResult
from fedloom.tuning.store import Store

if TYPE_CHECKING:
    from fedloom.tuning.learners.finite_difference import FiniteDifference

__all__ = ["Walk"]


class Walk:
    """Clients of a chunk between two rounds.

    Args:
        learner: how directions are looked along.
        session: the model.
        params: where every client starts.
        work: the numbers of local training.
        cohort: the clients.

    Raises:
        ConfigError: the work asks for what steps along directions have not: momentum, Adam, a
            proximal term; or nothing is left to move.
    """

    def __init__(
        self,
        learner: "FiniteDifference",
        session: Session,
        params: Params,
        work: LocalWork,
        cohort: Sequence[Assignment],
    ) -> None:
        _check(work)
        self._learner, self._session, self._params = learner, session, params
        self._near = session
        self._work, self._cohort = work, cohort
        plans = [list(local_batches(a, work)) for a in cohort]
        self._order = sorted(range(len(cohort)), key=lambda i: (-len(plans[i]), i))
        self._plans = [plans[i] for i in self._order]
        self._store = session.store(params, len(cohort))
        self._store.trunk = False
        trained = self._store.trained
        self._exact = _chosen(trained, learner.exact)
        names = set(self._exact.names)
        self._moved = Layout(tuple(spec for spec in trained if spec.name not in names))
        if not self._moved.size:
            raise ConfigError("learner: every tensor that trains is exact; train more than those")
        device = self._store.values.device
        self._columns = _columns(trained, self._moved).to(device)
        self._known = _columns(trained, self._exact).to(device)
        self._h = learner.h or _reach(self._moved.size, self._store)
        self._keys = [
            self._client_keys(cohort[i], len(self._plans[n])) for n, i in enumerate(self._order)
        ]
        self._scalars = [self._blank(len(plan)) for plan in self._plans]
        self._sums = torch.zeros(3, len(cohort), dtype=torch.float64)  # loss, correct, count
        self._broken = np.zeros(len(cohort), dtype=bool)

    @property
    def steps(self) -> int:
        """Local steps of the client that takes most."""
        return len(self._plans[0])

    def take(self, step: int) -> None:
        """One local step of the clients that have not finished."""
        store, learner = self._store, self._learner
        rows = [plan[step] for plan in self._plans if len(plan) > step]
        store.activate(len(rows))
        self._near = self._session.over(np.concatenate(rows))
        here = self._here(rows)
        chosen = [self._directions(n, step) for n in range(len(rows))]
        move = store.values.new_zeros(len(rows), self._moved.size)
        for start in range(0, learner.directions, DIRECTIONS):
            some = [c[start : start + DIRECTIONS] for c in chosen]
            z = self._vectors(some)
            slopes = self._slopes(rows, z, here)
            self._broken[: len(rows)] |= ~np.isfinite(slopes).all(axis=1)
            q = learner.quantized(slopes)
            for n, numbers in enumerate(some):
                np.add.at(self._scalars[n], numbers, q[n])
            steps = torch.from_numpy(q.astype(np.float32)).to(z.device)
            move += torch.einsum("kp,kpd->kd", steps, z)
        self._go(move, len(rows))

    def results(self, seconds: float) -> list[LocalResult]:
        """What came of it, in the order of the cohort."""
        deltas = self._store.deltas()[:, self._known].cpu().numpy()
        deltas[self._broken] = np.nan
        loss, correct, count = self._sums.numpy()
        found: list[LocalResult | None] = [None] * len(self._cohort)
        for n, i in enumerate(self._order):
            plan, own = self._plans[n], self._cohort[i]
            most = self._work.max_examples or len(own.rows)
            tokens = self._session.tokens(np.concatenate(plan))
            found[i] = LocalResult(
                client=own.client,
                layout=self._exact,
                delta=deltas[n],
                num_examples=min(len(own.rows), most),
                metrics={
                    "loss": float(loss[n] / max(count[n], 1)),
                    "accuracy": float(correct[n] / max(count[n], 1)),
                    "forwards": float(len(plan) * self._forwards),
                },
                flops=self._session.flops(tokens) / 2 * self._forwards,
                seconds=seconds,
                steps=self._steps(n, own),
            )
        return [result for result in found if result is not None]

    def _steps(self, n: int, own: Assignment) -> Steps:
        steps = Steps(self._moved, self._scalars[n], self._coefficient, self._learner.agreed)
        return steps.bound(own.seed, round=own.round, client=own.client)

    @property
    def _forwards(self) -> int:
        """Forward passes over a batch in one step."""
        sides = 2 if self._learner.difference == "central" else 1
        return 1 + sides * self._learner.directions

    @property
    def _coefficient(self) -> float:
        return -self._work.lr / self._learner.directions * self._learner.worth

    def _client_keys(self, own: Assignment, steps: int) -> list[int]:
        agreed, count = self._learner.agreed, self._slots(steps)
        owner = agreed.owner(own.client)
        return agreed.keys(own.seed, round=own.round, owner=owner, count=count)

    def _blank(self, steps: int) -> NDArray[np.int32]:
        return np.zeros(self._slots(steps), dtype=np.int32)

    def _slots(self, steps: int) -> int:
        """Directions that a client may use in a round of so many steps."""
        agreed = self._learner.agreed
        return agreed.pool if agreed.numbered else steps * self._learner.directions

    def _directions(self, n: int, step: int) -> NDArray[np.int64]:
        """Numbers of the directions that a client takes in a step."""
        count, own = self._learner.directions, self._cohort[self._order[n]]
        if not self._learner.agreed.numbered:
            return np.arange(step * count, (step + 1) * count)
        draw = stream(own.seed, f"pool/{step}", round=own.round, client=own.client)
        return (draw.uniform(count) * self._learner.pool).astype(np.int64)

    def _here(self, rows: Rows) -> Tensor:
        """The losses where the clients stand, float64 ``[k]``; the head's gradient is left in the
        store."""
        store, exact = self._store, bool(self._exact.specs)
        with torch.set_grad_enabled(exact):
            found = self._near.losses(store, rows)
            if exact:
                found.loss.sum().backward()
        k = len(rows)
        losses = _mean64(found)
        count = found.count.double().cpu()
        self._sums[:, :k] += torch.stack(
            (losses.cpu() * count, found.correct.double().cpu(), count)
        )
        return losses

    def _vectors(self, chosen: Sequence[NDArray[np.int64]]) -> Tensor:
        """Directions as float32 ``[k, p, d]``."""
        family = FAMILIES[self._learner.family]
        out = np.empty((len(chosen), len(chosen[0]), self._moved.size), dtype=np.float32)
        for n, numbers in enumerate(chosen):
            for group in np.unique(numbers // DIRECTIONS):
                mine = np.flatnonzero(numbers // DIRECTIONS == group)
                block = np.empty((len(mine), self._moved.size), dtype=np.float32)
                places = [int(i) for i in numbers[mine] % DIRECTIONS]
                family.fill(block, self._keys[n][int(group)], places)
                out[n, mine] = block
        return torch.from_numpy(out).to(self._store.values.device)

    def _slopes(self, rows: Rows, z: Tensor, here: Tensor) -> NDArray[np.float64]:
        """Slopes of the losses along directions, float64 ``[k, p]``."""
        ahead = self._losses(rows, z, self._h)
        if self._learner.difference == "central":
            found = (ahead - self._losses(rows, z, -self._h)) / (2 * self._h)
        else:
            found = (ahead - here[:, None]) / self._h
        return np.asarray(found.cpu().numpy(), dtype=np.float64)

    def _losses(self, rows: Rows, z: Tensor, h: float) -> Tensor:
        """Losses at ``w + h z``, float64 ``[k, p]``; the weights are perturbed in a copy."""
        k, p = z.shape[:2]
        probe = self._near.store(self._params, k * p)
        values = self._store.values[:k].repeat_interleave(p, dim=0)
        values[:, self._columns] += h * z.flatten(0, 1)
        probe.values = values
        with torch.no_grad():
            found = self._near.losses(probe, [row for row in rows for _ in range(p)])
        return _mean64(found).view(k, p)

    def _go(self, move: Tensor, k: int) -> None:
        """Step along the directions, and down the head's gradient."""
        store, work = self._store, self._work
        rate = work.head_lr or work.lr
        store.values[:k, self._columns] += self._coefficient * move
        store.values[:k, self._known] -= rate * store.grad[:k, self._known]
        store.stepped()


def _check(work: LocalWork) -> None:
    require(work.optimizer == "sgd", "local.optimizer", work.optimizer, "sgd, without backprop")
    for name in ("momentum", "weight_decay", "prox_mu"):
        value = getattr(work, name)
        require(value == 0, f"local.{name}", value, "0: steps along directions have none")


def _chosen(layout: Layout, selector: Selector) -> Layout:
    try:
        return layout.select(selector)
    except LayoutError:
        return Layout(())


def _columns(whole: Layout, part: Layout) -> Tensor:
    places = [np.arange(whole.span(s.name).start, whole.span(s.name).stop) for s in part]
    return torch.from_numpy(np.concatenate(places) if places else np.zeros(0, dtype=np.int64))


def _reach(size: int, store: Store) -> float:
    """How far to look along a direction of length ``sqrt(size)``: a step of 0.2 in all, or of 5
    where the products round to bfloat16."""
    coarse = store.dtype == torch.bfloat16
    return (5.0 if coarse else 0.2) / math.sqrt(size)


def _mean64(found: Losses) -> Tensor:
    """Mean loss of each row, summed in float64: differences of it are what is measured."""
    counts = found.count.long()
    owner = torch.repeat_interleave(torch.arange(len(counts), device=counts.device), counts)
    sums = torch.zeros(len(counts), dtype=torch.float64, device=counts.device)
    return sums.index_add_(0, owner, found.each.double()) / counts.clamp(min=1)
