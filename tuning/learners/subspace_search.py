"""A search of each client's own in a random subspace: CMA-ES against a black box.

Fed-BBPT (Lin et al., arXiv:2310.03123) has clients tune what is put before a closed model by any
method without gradients, and averages it. What is tuned here is a point of a random subspace, the
same for all clients (BBT: Sun et al., ICML 2022, equation 3), so that points can be averaged and
are all that is sent.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from fedloom.core.errors import require
from fedloom.core.evolution import Evolution, Search
from fedloom.core.layout import Layout
from fedloom.core.seeds import derive
from fedloom.core.steps import Directions
from fedloom.core.subspaces import Subspace, grain, rounded, scale_for
from fedloom.core.types import Briefing, LocalWork, Params
from fedloom.tuning.base import Rows, Session
from fedloom.tuning.learners.local_batches import local_batches
from fedloom.tuning.learning import NOTHING, Assignment, LocalResult
from fedloom.tuning.needs import memory_of
from fedloom.tuning.oracle import AT_ONCE, Oracle

__all__ = ["SubspaceSearch"]


@dataclass(frozen=True)
class SubspaceSearch:
    """CMA-ES by each client, for as many generations as its local steps, by forward passes only.

    All candidates of a generation see the same batch. The middle of the search is sent, as
    integers along the pool's first `k` directions: the codec ``scalars`` with the scheme ``pool``.

    Attributes:
        k: coordinates of the subspace.
        popsize: candidates of a generation.
        sigma: standard deviation of a coordinate in the first generation of a round.
        alpha: change of a parameter by a candidate of the first generation, relative to the root
            mean square of all that train.
        pool: directions in the pool, as the codec has it.
        family: ``rademacher`` or ``gaussian``.

    Raises:
        ConfigError: an option is out of range, or the pool has fewer directions than `k`.
    """

    kernel_needs = ("fd_safe",)

    k: int = 100
    popsize: int = 20
    sigma: float = 0.2
    alpha: float = 0.2
    pool: int = 4096
    family: str = "rademacher"

    def __post_init__(self) -> None:
        _ = self.search
        require(0 < self.alpha < float("inf"), "alpha", self.alpha, "above 0 and finite")
        _ = self._subspace(Layout(()), 1.0)

    @property
    def search(self) -> Search:
        """The numbers of the search."""
        return Search(self.k, self.popsize, self.sigma)

    @property
    def along(self) -> Directions:
        """The directions that its points are along, which the codec has to know."""
        return Directions("pool", self.pool, self.family)

    @property
    def copies(self) -> int:
        """Rows that run at once for each client."""
        return min(self.popsize, AT_ONCE)

    def train(
        self,
        session: Session,
        params: Params,
        work: LocalWork,
        cohort: Sequence[Assignment],
        briefing: Briefing = NOTHING,
    ) -> list[LocalResult]:
        """Search with every client of a chunk; results are in the order of `cohort`."""
        began = time.perf_counter()
        oracle = Oracle(session, params)
        start = params.layout.gather(params.vector, oracle.layout)
        scale = scale_for(start, alpha=self.alpha, k=self.k, sigma=self.sigma)
        subspace = self._subspace(oracle.layout, scale * grain(self.sigma))
        basis = torch.from_numpy(subspace.basis(cohort[0].seed)).to(oracle.device)
        basis *= subspace.coefficient
        searches = [_Search(self.search, own, list(local_batches(own, work))) for own in cohort]
        for step in range(max(len(search.plan) for search in searches)):
            active = [search for search in searches if len(search.plan) > step]
            _generation(oracle, active, step, basis)
        seconds = (time.perf_counter() - began) / len(cohort)
        return [self._result(session, work, s, subspace, seconds) for s in searches]

    def _subspace(self, layout: Layout, coefficient: float) -> Subspace:
        return Subspace(layout, self.along, 0, self.k, coefficient)

    def _result(
        self,
        session: Session,
        work: LocalWork,
        search: "_Search",
        subspace: Subspace,
        seconds: float,
    ) -> LocalResult:
        own, passes = search.own, 1 + self.popsize
        # Where every loss is infinite there is no point to send: NaN is what no codec sends.
        rest = subspace.layout if search.broken else Layout(())
        steps = None
        if not search.broken:
            steps = subspace.steps(search.point)
            steps = steps.bound(own.seed, round=own.round, client=own.client)
        tokens = session.tokens(np.concatenate(search.plan))
        loss, correct, count = search.sums
        return LocalResult(
            client=own.client,
            layout=rest,
            delta=np.full(rest.size, np.nan, dtype=np.float32),
            num_examples=min(len(own.rows), work.max_examples or len(own.rows)),
            metrics={
                "loss": loss / max(count, 1.0),
                "accuracy": correct / max(count, 1.0),
                "forwards": float(passes * len(search.plan)),
            },
            flops=session.flops(tokens) / 2 * passes,
            seconds=seconds,
            tokens=tokens,
            memory=memory_of(session, search.plan, subspace.layout.size, work, backward=False),
            steps=steps,
        )


class _Search:
    """One client's, between two generations."""

    def __init__(self, search: Search, own: Assignment, plan: list[NDArray[np.int64]]) -> None:
        key = derive(own.seed, "subspace search", round=own.round, client=own.client)
        self.own, self.plan = own, plan
        self.broken = False
        self.sums = [0.0, 0.0, 0.0]
        self._step = grain(search.sigma)
        self._evolution = Evolution(search, key)

    @property
    def candidates(self) -> NDArray[np.int32]:
        return rounded(self._evolution.candidates, self._step)

    @property
    def point(self) -> NDArray[np.int32]:
        return rounded(self._evolution.mean, self._step)

    def tell(self, losses: NDArray[np.float64]) -> None:
        finite = np.isfinite(losses)
        if not finite.any():
            self.broken = True
            return
        worst = float(losses[finite].max())
        self._evolution.tell(np.where(finite, losses, worst + 1))


def _generation(oracle: Oracle, searches: list[_Search], step: int, basis: torch.Tensor) -> None:
    """One generation of clients that have not finished; the last candidate is where they stand."""
    rows: Rows = [search.plan[step] for search in searches]
    oracle.near(rows)
    points = np.stack([np.vstack((s.candidates, s.point)) for s in searches])
    asked = torch.from_numpy(points.astype(np.float32)).to(basis.device)
    answers = oracle.ask(rows, asked @ basis)
    for i, search in enumerate(searches):
        count = float(answers.count[i])
        search.sums[0] += float(answers.losses[i, -1]) * count
        search.sums[1] += float(answers.correct[i, -1])
        search.sums[2] += count
        search.tell(answers.losses[i, :-1])
