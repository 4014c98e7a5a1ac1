"""Momentum and control variates on the server, for prompts of which some layers are shared.

FedPepTAO: Che, Liu, Zhou, Ren, Zhou, Sheng, Dai and Dou, "Federated Learning of Large Language
Models with Parameter-Efficient Prompt Tuning and Adaptive Optimization", EMNLP 2023. The server
keeps a control variate for each client, made as option II of SCAFFOLD has it (Karimireddy et al.,
ICML 2020, eq. 4) from what clients send anyway. With the round's weights p_k, a client's steps
tau_k and learning rate eta_k:

    theta' = sum p_k theta_k
    c_k   <- (theta - theta_k) / (tau_k eta_k)                   ``last``
    c_k   <- c_k - c + (theta - theta_k) / (tau_k eta_k)         ``sum``
    c     <- c + |S| / N  sum p_k (change of c_k)
    m     <- beta m + (1 - beta) (theta - theta')
    theta <- theta' - lr (m + c - sum p_k c_k)

In SCAFFOLD a client steps along ``g + c - c_k``, so that ``c_k - c`` in its rule (``sum``, as the
authors' code has it) takes out what was put in, and leaves the mean gradient. Here no client knows
its control: what comes to the mean gradient is ``last``; ``sum`` adds up from round to round what a
client differs. With ``last`` and without momentum a step is the mean of two: along the round's
clients, and, with weight ``lr / (tau eta)``, along the newest gradients of all clients, c.

A tensor that no client of the round sends stays as it is, and so do m and c there.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from fedloom.core.errors import require
from fedloom.core.layout import Layout, Vector
from fedloom.core.slopes import slope_of
from fedloom.core.types import (
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

__all__ = ["FedPepTAO"]

_SIDES = ("delta", "slope", "control")


@dataclass(frozen=True, eq=False)
class Total:
    """What a round came to so far.

    Attributes:
        sums: of ``theta_k - theta``, of the slopes and of the earlier control variates.
        members: updates in it.
        new: of them, those of clients that had no control variate.
        fresh: examples behind those.
    """

    sums: FixedPointSum
    members: int
    new: int
    fresh: int


@dataclass(frozen=True)
class FedPepTAO:
    """Averaging, corrected by momentum and by what the round's clients differ from all others.

    Args:
        lr: server learning rate of the first round.
        decay: what it is multiplied by after each round.
        lowest: what it does not fall below.
        momentum: beta.
        clients: N, of the federation; where more have answered, or with 0, as many as that.
        controls: ``last`` or ``sum``, as above, or ``none``: c and c_k are zero.

    Raises:
        ConfigError: an argument is out of range.
    """

    lr: float = 0.05
    decay: float = 0.99
    lowest: float = 1e-4
    momentum: float = 0.9
    clients: int = 0
    controls: str = "last"

    def __post_init__(self) -> None:
        require(0 < self.lr < float("inf"), "lr", self.lr, "above 0 and finite")
        require(0 < self.decay <= 1, "decay", self.decay, "above 0, to 1")
        require(0 <= self.lowest <= self.lr, "lowest", self.lowest, f"in [0, lr = {self.lr:g}]")
        require(0 <= self.momentum < 1, "momentum", self.momentum, "in [0, 1)")
        known = ("last", "sum", "none")
        require(self.controls in known, "controls", self.controls, f"one of {', '.join(known)}")
        require(self.clients >= 0, "clients", self.clients, "0 (as many as answered) or more")

    def init(self, params: Params) -> State:
        """The state before the first round."""
        return State(params)

    def configure(self, state: State, cohort: Cohort) -> Mapping[ClientId, ClientTask]:
        """What the job asks of each client."""
        return Constant().plan(state, cohort)

    def remembers(self, sent: Layout) -> Layout:
        """A control variate of all that a client sends."""
        return Layout(()) if self.controls == "none" else sent

    def accumulate(self, total: Total | None, update: ClientUpdate) -> Total:
        """The sums with one more update."""
        delta, own = decoded(update).dense(), update.remembered
        slope = slope_of(delta, update.work, update.num_examples)
        sides = dict(zip(_SIDES, (delta.vector, slope, _of(own, delta.layout)), strict=True))
        sums = summed(total.sums if total else None, update, delta.layout, sides)
        members, new, fresh = (total.members, total.new, total.fresh) if total else (0, 0, 0)
        if own is None:
            new, fresh = new + 1, fresh + update.num_examples
        return Total(sums, members + 1, new, fresh)

    def remember(self, state: State, update: ClientUpdate) -> Params:
        """The client's next control variate."""
        assert update.delta is not None
        delta = update.delta.dense()
        vector = slope_of(delta, update.work, update.num_examples)
        if self.controls == "sum":
            c = state.params.layout.gather(slot_of(state, "c"), delta.layout)
            vector = _of(update.remembered, delta.layout) - c + vector
        return Params(delta.layout, vector)

    def apply(self, state: State, total: Total | None) -> tuple[State, Metrics]:
        """The mean of the clients' models, and one step along momentum and controls.

        ``delta_norm`` is the L2 norm of the mean delta, ``correction_norm`` of the step after it.
        """
        if total is None:
            return State(state.params, state.version + 1, state.slots, state.notes), {}
        params, layout = state.params, state.params.layout
        part = present(layout, total.sums, "delta")
        delta, slope, control = means_of(part, total.sums, _SIDES)
        c, m = (layout.gather(slot_of(state, name), part) for name in ("c", "m"))
        m = self.momentum * m - (1 - self.momentum) * delta
        moved, notes = {"m": m}, dict(state.notes)
        if self.controls != "none":
            notes["known"] = known = int(notes.get("known", 0)) + total.new
            if self.controls == "last":  # a client that had none counts as the mean of the others
                control = control + total.fresh / max(total.sums.weight, 1) * c
            change = slope - (c if self.controls == "sum" else control)
            moved["c"] = c = c + total.members / max(self.clients, known) * change
            control = control + change
        step = m + c - control
        lr = max(self.lr * self.decay**state.version, self.lowest)
        before = layout.gather(params.vector, part)
        after = layout.scatter(params.vector, part, before + delta - lr * step)
        slots = {n: layout.scatter(slot_of(state, n), part, values) for n, values in moved.items()}
        metrics = {"delta_norm": _norm(delta), "correction_norm": lr * _norm(step)}
        return State(Params(layout, after), state.version + 1, slots, notes), metrics


def _of(own: Params | None, layout: Layout) -> Vector:
    """A client's control variate for some tensors; zero where it has none."""
    return np.zeros(layout.size, np.float32) if own is None else own.only(layout).vector


def _norm(vector: Vector) -> float:
    return float(np.sqrt(np.square(vector, dtype=np.float64).sum()))
