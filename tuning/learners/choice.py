"""Which directions a client takes in each of its local steps, and what they are, without torch."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedloom.core.errors import require
from fedloom.core.layout import Layout, Vector
from fedloom.core.perturbation_keys import DIRECTIONS
from fedloom.core.seeds import stream
from fedloom.core.steps import FAMILIES
from fedloom.core.types import Briefing
from fedloom.tuning.base import Rows
from fedloom.tuning.learners.search import Search
from fedloom.tuning.learning import Assignment

__all__ = ["Choice", "Chosen", "Numbers", "guide_of"]

Numbers = NDArray[np.int64]


@dataclass(frozen=True)
class Chosen:
    """Directions that are tried in one pass.

    Attributes:
        owner: int64 ``[r]``, ascending: whose each is, among the clients that take part.
        numbers: int64 ``[r]``: which of the owner's directions.
        rows: the examples that each is tried on.
        z: float32 ``[r, d]``, the directions.
        single: each is tried on one example; together they are all of every batch, in order.
    """

    owner: Numbers
    numbers: Numbers
    rows: Rows
    z: NDArray[np.float32]
    single: bool


class Choice:
    """The directions of the clients of a chunk.

    Of a pool they are drawn, by the chances that the strategy sends as ``odds`` where it does
    (FedKSeed-Pro: Qin et al., ICML 2024, section 3.4; the draws are not weighted back). Of a
    client's own candidates it takes those with the largest cosine with the strategy's ``guide`` in
    all of its steps, without one the first (FwdLLM: Xu et al., ATC 2024, section 3.4); that makes
    more of what lies along the guide.

    Args:
        search: how many, and of which kind.
        moved: the tensors that move.
        cohort: the clients.
        plans: their batches.
        briefing: what the strategy sent.

    Raises:
        ConfigError: what the strategy sent does not fit, or there are too few candidates.
    """

    def __init__(
        self,
        search: Search,
        moved: Layout,
        cohort: Sequence[Assignment],
        plans: Sequence[Rows],
        briefing: Briefing,
    ) -> None:
        self._search, self._moved, self._cohort, self._plans = search, moved, cohort, plans
        self._family = FAMILIES[search.agreed.family]
        self._starts = [self._numbered_from(plan) for plan in plans]
        self.keys = [self._client_keys(n) for n in range(len(cohort))]
        self._odds = _odds(briefing, search.agreed.pool)
        self._best: list[Numbers] = []
        if search.agreed.scheme == "candidates":
            guide = guide_of(briefing, moved)
            self._best = [self._ranked(n, guide) for n in range(len(cohort))]

    def slots(self, n: int) -> int:
        """Directions that a client may use in its round."""
        agreed = self._search.agreed
        return agreed.pool if agreed.numbered else int(self._starts[n][-1])

    def trials(self, step: int, rows: Rows, at_once: int) -> Iterator[Chosen]:
        """The directions of a step, pass by pass.

        Args:
            step: number of the local step.
            rows: the batches of the clients that take part in it.
            at_once: directions of a client that are tried in one pass.
        """
        taken = [self._taken(n, step) for n in range(len(rows))]
        if self._search.per_example:
            for i in range(self._search.directions):
                own = [t[i * len(r) : (i + 1) * len(r)] for t, r in zip(taken, rows, strict=True)]
                yield self._made(own, [one for r in rows for one in np.split(r, len(r))], True)
            return
        for start in range(0, self._search.directions, DIRECTIONS):
            some = [t[start : start + DIRECTIONS] for t in taken]
            count = len(some[0])
            whole = self._made(some, [r for r in rows for _ in range(count)], False)
            for first in range(0, count, at_once):
                yield _columns(whole, len(rows), slice(first, first + at_once))

    def _taken(self, n: int, step: int) -> Numbers:
        """Numbers of the directions that a client takes in a step."""
        count, own = self._count(self._plans[n][step]), self._cohort[n]
        scheme, pool = self._search.agreed.scheme, self._search.agreed.pool
        if scheme == "candidates":
            require(count <= pool, "directions", count, f"at most the pool's {pool} in a step")
            return np.sort(self._best[n][:count])
        if scheme != "pool":
            return np.arange(self._starts[n][step], self._starts[n][step] + count)
        draw = stream(own.seed, f"pool/{step}", round=own.round, client=own.client).uniform(count)
        if self._odds is None:
            return (draw * pool).astype(np.int64)
        places = np.searchsorted(self._odds, draw * self._odds[-1], side="right")
        return np.asarray(np.minimum(places, pool - 1), dtype=np.int64)

    def _made(self, chosen: Sequence[Numbers], rows: Rows, single: bool) -> Chosen:
        """Chosen directions, client by client."""
        owner = np.repeat(np.arange(len(chosen)), [len(c) for c in chosen])
        out = np.empty((len(owner), self._moved.size), dtype=np.float32)
        start = 0
        for n, numbers in enumerate(chosen):
            self._fill(out[start : start + len(numbers)], n, numbers)
            start += len(numbers)
        return Chosen(owner, np.concatenate(chosen), rows, out, single)

    def _fill(self, out: Vector, n: int, numbers: Numbers) -> None:
        """Write the directions `numbers` of a client, float32 ``[len(numbers), d]``."""
        for group in np.unique(numbers // DIRECTIONS):
            mine = np.flatnonzero(numbers // DIRECTIONS == group)
            block = np.empty((len(mine), self._moved.size), dtype=np.float32)
            places = [int(i) for i in numbers[mine] % DIRECTIONS]
            self._family.fill(block, self.keys[n][int(group)], places)
            out[mine] = block

    def _count(self, batch: NDArray[np.int64]) -> int:
        return self._search.directions * (len(batch) if self._search.per_example else 1)

    def _numbered_from(self, plan: Rows) -> Numbers:
        """The first direction of each step, and one past the last of all."""
        return np.concatenate(([0], np.cumsum([self._count(batch) for batch in plan])))

    def _client_keys(self, n: int) -> list[int]:
        agreed, own = self._search.agreed, self._cohort[n]
        owner = agreed.owner(own.client)
        return agreed.keys(own.seed, round=own.round, owner=owner, count=self.slots(n))

    def _ranked(self, n: int, guide: Vector | None) -> Numbers:
        """A client's candidates, those along the guide first."""
        numbers = np.arange(self._search.agreed.pool)
        if guide is None:
            return numbers
        cosines = np.empty(len(numbers))
        for start in range(0, len(numbers), DIRECTIONS):
            some = numbers[start : start + DIRECTIONS]
            z = np.empty((len(some), self._moved.size), dtype=np.float32)
            self._fill(z, n, some)
            cosines[some] = (z @ guide) / np.linalg.norm(z, axis=1)
        return np.argsort(-cosines, kind="stable")


def guide_of(briefing: Briefing, moved: Layout) -> Vector | None:
    """The strategy's guide at unit length, float32 ``[d]``; zeros where it has no direction.

    Raises:
        ConfigError: it has another shape than what moves, or is not finite.
    """
    if "guide" not in briefing:
        return None
    guide = np.asarray(briefing["guide"], dtype=np.float64)
    shape, wanted = list(guide.shape), [moved.size]
    require(shape == wanted, "briefing.guide", shape, f"{wanted}, like the tensors that move")
    length = float(np.linalg.norm(guide))
    require(np.isfinite(length), "briefing.guide", length, "of finite length")
    return (guide / (length or 1.0)).astype(np.float32)


def _odds(briefing: Briefing, pool: int) -> NDArray[np.float64] | None:
    """Running sums of the chances of a pool's directions."""
    if "odds" not in briefing:
        return None
    odds = np.asarray(briefing["odds"], dtype=np.float64)
    require(odds.shape == (pool,), "briefing.odds", list(odds.shape), f"[{pool}], like the pool")
    sound = bool(np.isfinite(odds).all()) and odds.min() >= 0 and odds.sum() > 0
    require(sound, "briefing.odds", "odds", "finite, none below 0, and one above")
    return np.cumsum(odds)


def _columns(whole: Chosen, clients: int, span: slice) -> Chosen:
    """Of a pass with equally many directions for each client, some of everyone's."""
    places = np.arange(len(whole.owner)).reshape(clients, -1)[:, span].ravel()
    rows = [whole.rows[int(i)] for i in places]
    z = whole.z if len(places) == len(whole.z) else whole.z[places]
    return Chosen(whole.owner[places], whole.numbers[places], rows, z, whole.single)
