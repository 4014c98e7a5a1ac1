"""Search without gradients: clients say how good candidates are, the server draws new ones.

BBTv2 (Sun et al., EMNLP 2022, algorithm 1) keeps a random projection and a CMA-ES for each layer's
prompt, and takes the layers in turn. Here the losses of a generation are means over a cohort: what
comes up of a client is one scalar for each candidate, what goes down beside the model are the
candidates as small integers.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from fedloom.core.component import Component, Option
from fedloom.core.errors import UpdateRefusedError, require
from fedloom.core.evolution import Evolution, Search
from fedloom.core.seeds import derive
from fedloom.core.step_ledger import unmoved
from fedloom.core.steps import Directions
from fedloom.core.types import (
    Briefing,
    ClientId,
    ClientTask,
    ClientUpdate,
    Cohort,
    Metrics,
    Params,
    State,
)
from fedloom.strategies.generations import Book, Told
from fedloom.strategies.plan import Constant, task_for
from fedloom.strategies.zeroth_order import ZerothOrder

__all__ = ["BBTv2", "fed_bbpt"]

CODEC = Component("scalars", {"scheme": "shared", "exact": ()})


@dataclass(frozen=True)
class BBTv2:
    """CMA-ES on the server over random subspaces, one block a round; clients return losses only.

    The first round asks for the loss of the model as it is. With it come the run's seed and the
    tensors that train, from which the subspaces follow.

    A block moves to the best candidate of a generation, where that is better than the block as it
    stands, on the same cohort and examples. The best ever seen, which BBTv2 keeps, compares losses
    of different cohorts here, and of other blocks that have moved since; the middle of the search
    (``take = "mean"``) averages such noise out, but is behind the best while the search is wide.

    Attributes:
        k: coordinates of each block's subspace.
        popsize: candidates of a generation.
        sigma: standard deviation of a coordinate in the first generation.
        alpha: change of a parameter by a candidate of the first generation, relative to the root
            mean square of the block's parameters as they start.
        take: where a block moves: ``best`` or ``mean``.
        family: of the directions: ``rademacher`` or ``gaussian``.
        largest: difference to the present loss that the largest scalar stands for.

    Raises:
        ConfigError: an option is out of range.
    """

    asks = True
    """Clients are asked how good candidates are."""
    own_learner = True
    """Tasks say how clients train, whatever the job says."""

    k: int = 500
    popsize: int = 20
    sigma: float = 0.2
    alpha: float = 0.2
    take: str = "best"
    family: str = "rademacher"
    largest: float = 2.0
    _running: dict[tuple[int, int], tuple[bytes, Evolution]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        _ = self.search, Book(self.k, self.sigma, self.alpha, self.family)
        require(self.take in ("best", "mean"), "take", self.take, "best or mean")
        require(0 < self.largest < float("inf"), "largest", self.largest, "above 0 and finite")

    @property
    def schemes(self) -> tuple[str, ...]:
        """Losses of candidates come as scalars of directions that all share."""
        return ("shared",)

    @property
    def search(self) -> Search:
        """The numbers of each block's search."""
        return Search(self.k, self.popsize, self.sigma)

    @property
    def _book(self) -> Book:
        return Book(self.k, self.sigma, self.alpha, self.family)

    def init(self, params: Params) -> State:
        """The state before the first round."""
        return State(params)

    def configure(self, state: State, cohort: Cohort) -> Mapping[ClientId, ClientTask]:
        """Everybody evaluates the same candidates of the block whose turn it is."""
        selectors = cohort.selectors
        if self._book.open(state):
            trained = state.params.layout.select(selectors.train)
            selectors = replace(selectors, train=self._book.block(state, trained).names)
        learner = Component("black-box", {"largest": self.largest})
        tasks = (task_for(client, state, cohort) for client in cohort.clients)
        return {
            task.client: replace(task, learner=learner, codec=CODEC, selectors=selectors)
            for task in tasks
        }

    def briefing(self, state: State) -> Briefing:
        """The candidates; nothing before the first round."""
        if not self._book.open(state):
            return {}
        return self._book.briefing(state, self._evolution(state).candidates)

    def accumulate(self, total: Told | None, update: ClientUpdate) -> Told:
        """Add a client's losses, weighted by its examples.

        Raises:
            UpdateRefusedError: the update has no losses, or not of these candidates.
        """
        steps = None if update.delta is None else update.delta.steps
        if steps is None:
            raise UpdateRefusedError(f"client {update.client!r}: no losses", code="layout")
        if len(steps.scalars) not in (1, self.popsize):
            text = f"{len(steps.scalars)} losses of {self.popsize} candidates"
            raise UpdateRefusedError(f"client {update.client!r}: {text}", code="layout")
        return (total or Told()).plus(steps, update.num_examples)

    def apply(self, state: State, total: Told | None) -> tuple[State, Metrics]:
        """Tell the block's search, and move the block; without losses the generation stays."""
        if not self._book.open(state):
            first = None if total is None else total.of(1)
            return self._book.begun(state, first), {}
        answer = None if total is None else total.of(self.popsize)
        if answer is None:
            return unmoved(state), {}
        turn, losses = self._book.turn(state), answer.mean
        evolution = self._evolution(state)
        best = int(np.argmin(losses))
        chosen = evolution.candidates[best] if losses[best] < 0 else None
        evolution.tell(losses)
        after = self._book.told(state, losses)
        seed = int(state.notes["seed"])
        self._running[seed, turn] = self._book.history(after, turn).tobytes(), evolution
        if self.take == "mean":
            chosen = evolution.mean
        if chosen is None:
            after = unmoved(after)
        else:
            after = self._book.moved(after, turn, answer.layout, chosen)
        metrics = {
            "block": float(turn),
            "best_change": float(losses[best]),
            "mean_change": float(losses.mean()),
            "search_sigma": evolution.sigma,
        }
        return after, metrics

    def _evolution(self, state: State) -> Evolution:
        """The search of the block whose turn it is, kept from the round before or made again."""
        turn, seed = self._book.turn(state), int(state.notes["seed"])
        history = self._book.history(state, turn)
        known = self._running.get((seed, turn))
        if known is None or known[0] != history.tobytes():
            key = derive(seed, f"black box/{turn}")
            known = history.tobytes(), Evolution.after(self.search, key, history)
            self._running[seed, turn] = known
        return known[1]


@dataclass(frozen=True)
class _Searching:
    """The job's work, done by a search of each client's own."""

    learner: Component
    codec: Component
    own_learner = True

    def plan(self, state: State, cohort: Cohort) -> Mapping[ClientId, ClientTask]:
        """One task per client of the cohort."""
        tasks = Constant().plan(state, cohort).items()
        return {name: replace(task, learner=self.learner, codec=self.codec) for name, task in tasks}


def fed_bbpt(
    k: int = 100,
    popsize: int = 20,
    sigma: float = 0.2,
    alpha: float = 0.2,
    family: str = "rademacher",
    lr: float = 1.0,
) -> ZerothOrder:
    """Clients search a shared subspace on their own, by losses only; their points are averaged.

    Args:
        k: coordinates of the subspace, over all that trains.
        popsize: candidates of a generation; a client takes as many generations as local steps.
        sigma: standard deviation of a coordinate in the first generation of a round.
        alpha: change of a parameter by a candidate of the first generation, relative to the root
            mean square of all that train.
        family: of the directions: ``rademacher`` or ``gaussian``.
        lr: server learning rate; 1 is the mean itself.

    Raises:
        ConfigError: an argument is out of range.
    """
    _ = Search(k, popsize, sigma)
    require(0 < alpha < float("inf"), "alpha", alpha, "above 0 and finite")
    pool: dict[str, Option] = {"pool": Directions("pool", k, family).pool, "family": family}
    numbers: dict[str, Option] = {"k": k, "popsize": popsize, "sigma": sigma, "alpha": alpha}
    learner = Component("subspace-search", {**numbers, **pool})
    codec = Component("scalars", {"scheme": "pool", "exact": (), **pool})
    return ZerothOrder(_Searching(learner, codec), lr, shrink=0.0)
