"""The servers of SCAFFOLD and FedDyn, whose clients correct their drift.

Both go with the learner of the same name (`fedloom.tuning.learners.controlled`), which remembers a
control for each client and sends none of it. With a round's clients S, of N in all, and theta the
model before it:

SCAFFOLD (Karimireddy et al., ICML 2020, Algorithm 1, lines 16 and 17), where a client's change of
control is its mean gradient less c, so that the server finds it by itself:

    theta <- theta + lr / |S| sum (theta_k - theta)
    c     <- c + |S| / N  (1 / |S| sum (theta - theta_k) / (tau_k eta_k)  -  c)

FedDyn (Acar et al., ICLR 2021):

    h     <- h - alpha / N sum (theta_k - theta)
    theta <- 1 / |S| sum theta_k - h / alpha

Clients count the same, whatever they hold, as in both papers. A tensor that no client of the round
sends stays as it is, and so do c and h there.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from fedloom.core.errors import require
from fedloom.core.layout import Vector
from fedloom.core.slopes import slope_of
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
from fedloom.strategies.aggregate import FixedPointSum
from fedloom.strategies.decoded import decoded
from fedloom.strategies.optimizers import slot_of
from fedloom.strategies.plan import Constant
from fedloom.strategies.side_by_side import means_of, present, summed

__all__ = ["FedDyn", "Scaffold"]


@dataclass(frozen=True, eq=False)
class Total:
    """What a round came to so far.

    Attributes:
        sums: of the clients' changes, and of their mean gradients.
        members: updates in it.
    """

    sums: FixedPointSum
    members: int


@dataclass(frozen=True)
class Scaffold:
    """Averaging, and everybody's control for the clients of the next round.

    Args:
        clients: N, of the federation.
        lr: server learning rate.

    Raises:
        ConfigError: an argument is out of range.
    """

    clients: int
    lr: float = 1.0

    correction = "scaffold"

    def __post_init__(self) -> None:
        _check_clients(self.clients)
        require(0 < self.lr < float("inf"), "lr", self.lr, "above 0 and finite")

    def init(self, params: Params) -> State:
        """The state before the first round."""
        return State(params)

    def briefing(self, state: State) -> Briefing:
        """c, float32 ``[P]``; nothing while it is zero."""
        return {"control": slot_of(state, "c")} if "c" in state.slots else {}

    def configure(self, state: State, cohort: Cohort) -> Mapping[ClientId, ClientTask]:
        """What the job asks of each client."""
        return Constant().plan(state, cohort)

    def accumulate(self, total: Total | None, update: ClientUpdate) -> Total:
        """The sums with one more update.

        Raises:
            UpdateRefusedError: as `WeightedMean.add`.
        """
        delta = decoded(update).dense()
        slope = slope_of(delta, update.work, update.num_examples)
        sides, alike = {"delta": delta.vector, "slope": slope}, replace(update, num_examples=1)
        sums = summed(total.sums if total else None, alike, delta.layout, sides)
        return Total(sums, total.members + 1 if total else 1)

    def apply(self, state: State, total: Total | None) -> tuple[State, Metrics]:
        """A step along the mean delta; ``control_norm`` is the L2 norm of c after it."""
        if total is None:
            return replace(state, version=state.version + 1), {}
        layout = state.params.layout
        part = present(layout, total.sums, "delta")
        delta, slope = means_of(part, total.sums, ("delta", "slope"))
        c = layout.gather(slot_of(state, "c"), part)
        c = c + np.float32(min(total.members / self.clients, 1.0)) * (slope - c)
        moved = layout.gather(state.params.vector, part) + np.float32(self.lr) * delta
        after = layout.scatter(state.params.vector, part, moved)
        slots = {"c": layout.scatter(slot_of(state, "c"), part, c)}
        metrics = {"delta_norm": _norm(delta), "control_norm": _norm(slots["c"])}
        return State(Params(layout, after), state.version + 1, slots, state.notes), metrics


@dataclass(frozen=True)
class FedDyn:
    """Averaging, and a step against what all clients have moved so far.

    Args:
        clients: N, of the federation.
        alpha: weight of the clients' proximal term; takes the place of the job's ``prox_mu``.

    Raises:
        ConfigError: an argument is out of range.
    """

    clients: int
    alpha: float = 0.01

    correction = "feddyn"

    def __post_init__(self) -> None:
        _check_clients(self.clients)
        require(0 < self.alpha < float("inf"), "alpha", self.alpha, "above 0 and finite")

    def init(self, params: Params) -> State:
        """The state before the first round."""
        return State(params)

    def configure(self, state: State, cohort: Cohort) -> Mapping[ClientId, ClientTask]:
        """What the job asks of each client, held near the model by alpha."""
        return Constant(prox_mu=self.alpha).plan(state, cohort)

    def accumulate(self, total: Total | None, update: ClientUpdate) -> Total:
        """The sum with one more update.

        Raises:
            UpdateRefusedError: as `WeightedMean.add`.
        """
        delta, alike = decoded(update).dense(), replace(update, num_examples=1)
        sums = summed(total.sums if total else None, alike, delta.layout, {"delta": delta.vector})
        return Total(sums, total.members + 1 if total else 1)

    def apply(self, state: State, total: Total | None) -> tuple[State, Metrics]:
        """The mean of the clients' models less ``h / alpha``; ``control_norm`` is h's L2 norm."""
        if total is None:
            return replace(state, version=state.version + 1), {}
        layout = state.params.layout
        part = present(layout, total.sums, "delta")
        (delta,) = means_of(part, total.sums, ("delta",))
        alpha = np.float32(self.alpha)
        share = np.float32(min(total.members / self.clients, 1.0))
        h: Vector = layout.gather(slot_of(state, "h"), part) - alpha * share * delta
        moved: Vector = layout.gather(state.params.vector, part) + delta - h / alpha
        after = layout.scatter(state.params.vector, part, moved)
        slots = {"h": layout.scatter(slot_of(state, "h"), part, h)}
        metrics = {"delta_norm": _norm(delta), "control_norm": _norm(slots["h"])}
        return State(Params(layout, after), state.version + 1, slots, state.notes), metrics


def _check_clients(clients: int) -> None:
    require(clients >= 1, "clients", clients, "1 or more: all of the federation's, not a round's")


def _norm(vector: Vector) -> float:
    return float(np.linalg.norm(vector))
