"""Rounds that wait until their directions agree: FwdLLM's variance-controlled pacing.

Xu, Cai, Wu, Li and Wang, "FwdLLM: Efficient Federated Finetuning of Large Language Models with
Perturbed Inferences", USENIX ATC 2024, sections 3.3 and 3.4. Steps are gathered at one model, from
the same clients on the same batches along ever new directions, until two halves of them are alike;
then the model moves by their mean. After every second move clients are told where it went, and
choose directions that look that way.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from fedloom.core.errors import require
from fedloom.core.layout import Selector
from fedloom.core.step_ledger import unmoved
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
from fedloom.strategies.base import Planner
from fedloom.strategies.gates import cosine, halves, variance
from fedloom.strategies.guided import change_of
from fedloom.strategies.holding import held, joined, keeping, released
from fedloom.strategies.plan import Constant
from fedloom.strategies.step_total import StepTotal, add_update, advance_of
from fedloom.strategies.zeroth_order import WEIGHINGS, applied, weighed

__all__ = ["Gate", "Paced", "paced"]


@dataclass(frozen=True)
class Gate:
    """When gathered steps are good enough.

    Attributes:
        kind: ``variance``: the statistic of FwdLLM is at most `tau`; ``cosine``: the cosine of two
            halves is at least `least` times what it is by chance, ``1 / sqrt(d)``.
        tau: of the same unit as squared slopes.
        least: multiples of ``1 / sqrt(d)``.
        tensors: whose coordinates are looked at.
        patience: rounds after which the model moves in any case (0: never).
    """

    kind: str = "variance"
    tau: float = 0.1
    least: float = 3.0
    tensors: Selector = ("*",)
    patience: int = 0

    def __post_init__(self) -> None:
        require(self.kind in ("variance", "cosine"), "gate", self.kind, "variance or cosine")
        require(0 < self.tau < math.inf, "tau", self.tau, "above 0 and finite")
        require(0 < self.least < math.inf, "least", self.least, "above 0 and finite")
        require(bool(self.tensors), "tensors", self.tensors, "at least one tag, block or name")
        require(self.patience >= 0, "patience", self.patience, "0 (without end) or more")

    def look(self, total: StepTotal) -> tuple[bool, Metrics]:
        """Whether the steps of a total are good enough, and what was measured."""
        found = halves(total, self.tensors)
        if found is None:
            return False, {}
        spread, agreement = variance(*found), cosine(*found)
        least = self.least / math.sqrt(len(found[0]))
        good = spread <= self.tau if self.kind == "variance" else agreement >= least
        return good, {"variance": spread, "agreement": agreement}


@dataclass(frozen=True)
class Paced:
    """The mean of steps along known directions, once they agree.

    What clients send number by number moves the model with the steps, as the last round of
    waiting gives it: at the same model and on the same batches it was the same in each.

    Attributes:
        planner: who trains what.
        gate: when the model moves.
        lr: server learning rate.
        shrink: share of the dimension that counts as noise; see `advance_of`.
        guided: after every second move, tell clients where it went.
        weigh: ``examples`` or ``clients``: what an update weighs in the mean.
    """

    planner: Planner = Constant()
    gate: Gate = Gate()
    lr: float = 1.0
    shrink: float = 0.0
    guided: bool = True
    weigh: str = "clients"

    schemes = ("distinct", "candidates")
    """Whose directions it can go along: halves are made of clients' own."""

    def __post_init__(self) -> None:
        require(0 < self.lr < math.inf, "lr", self.lr, "above 0 and finite")
        require(0 <= self.shrink < math.inf, "shrink", self.shrink, "0 or more, and finite")
        require(self.weigh in WEIGHINGS, "weigh", self.weigh, f"one of {', '.join(WEIGHINGS)}")

    def init(self, params: Params) -> State:
        """The state before the first round."""
        return State(params)

    def configure(self, state: State, cohort: Cohort) -> Mapping[ClientId, ClientTask]:
        """The planner's tasks; on the batches of the first of the rounds that wait."""
        again = int(state.notes.get("since", 0))
        tasks = self.planner.plan(state, cohort)
        return {name: replace(task, batches=again) for name, task in tasks.items()}

    def briefing(self, state: State) -> Briefing:
        """``guide``: the last move, float32 over the tensors that moved; every second time."""
        if not self.guided or "guide" not in state.slots or int(state.notes.get("moves", 0)) % 2:
            return {}
        return {"guide": state.slots["guide"]}

    def accumulate(self, total: StepTotal | None, update: ClientUpdate) -> StepTotal:
        """The total with one more update; `total` is written into."""
        return add_update(total, weighed(update, self.weigh))

    def apply(self, state: State, total: StepTotal | None) -> tuple[State, Metrics]:
        """The model after the mean of all that was gathered, or as it is, waiting for more.

        ``waited`` is how many rounds it has waited for. Where nobody answered, others are asked.
        """
        if total is None:
            notes = {name: note for name, note in state.notes.items() if name != "cohort"}
            return unmoved(replace(state, notes=notes)), {}
        whole, waited = joined(held(state), total), int(state.notes.get("waited", 0)) + 1
        good, metrics = self.gate.look(whole) if whole.steps else (True, {})
        metrics = {**metrics, "waited": waited}
        if good or waited == self.gate.patience:
            return self._moved(state, whole, metrics)
        first = min(kind.round for kind in whole.steps)
        kept = keeping(state, whole)
        waiting = {"cohort": first, "since": first, "waited": waited}
        return unmoved(replace(kept, notes={**kept.notes, **waiting})), metrics

    def _moved(self, state: State, whole: StepTotal, metrics: Metrics) -> tuple[State, Metrics]:
        free = released(state)
        notes = {n: x for n, x in free.notes.items() if n not in ("cohort", "since", "waited")}
        notes["moves"] = int(notes.get("moves", 0)) + 1
        free = replace(free, notes=notes)
        advance = advance_of(state.params, whole, lr=self.lr, shrink=self.shrink)
        after, told = applied(free, advance, whole)
        if self.guided and advance.moves:
            guide = change_of(state.params, after.params, advance.moves[0].layout)
            after = replace(after, slots={**after.slots, "guide": guide})
        return after, {**told, **metrics}


def paced(
    gate: str = "variance",
    tau: float = 0.1,
    least: float = 3.0,
    tensors: tuple[str, ...] = ("*",),
    patience: int = 0,
    lr: float = 1.0,
    shrink: float = 0.0,
    guided: bool = True,
    weigh: str = "clients",
) -> Paced:
    """Gather steps along random directions at one model until they agree (FwdLLM).

    Args:
        gate: ``variance`` (FwdLLM's statistic is at most `tau`) or ``cosine`` (that of two halves
            of the directions is at least `least` times ``1 / sqrt(d)``, whatever the scale).
        tau: FwdLLM's threshold, for ``local.lr = 1``; it uses 0.1 to 0.5.
        least: see `gate`.
        tensors: whose coordinates are looked at: tags, blocks or globs.
        patience: rounds after which the model moves in any case (0: never).
        lr: server learning rate.
        shrink: share of the dimension that counts as noise; see `zeroth-order`.
        guided: after every second move, let clients choose directions along it; for the learner's
            scheme ``candidates``.
        weigh: ``examples`` or ``clients``: what an update weighs in the mean.

    Raises:
        ConfigError: an argument is out of range.
    """
    told = Gate(gate, tau, least, tensors, patience)
    return Paced(Constant(), told, lr, shrink, guided, weigh)
