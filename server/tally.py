"""The books of one round: who was counted, who was refused, what it cost, what was measured."""

import math
from collections import defaultdict
from dataclasses import dataclass, field, replace

from fedloom.core.types import ClientId, ClientUpdate, Cost, Metrics, Refusal, RoundReport

__all__ = ["Tally", "is_measured"]

_LARGEST = 1e150
"""Of a metric; so many times any count of examples, summed over any cohort, is still a float."""


def is_measured(value: float) -> bool:
    """Whether a mean can be made of a metric: neither NaN nor beyond any measure."""
    return abs(value) <= _LARGEST


@dataclass(eq=False)
class Tally:
    """Counts while a round runs, and becomes its report.

    Attributes:
        accepted: updates folded into the model.
        refused: updates that were not, with reasons.
        cost: of all updates that came, refused ones too.
        slowest: seconds of the client that was busy longest.
        covered: joules at idle watts in the time that clients are busy: what waiting does not add.
        measured: for each metric, ``(num_examples, value)`` of the accepted updates.
    """

    accepted: int = 0
    refused: list[Refusal] = field(default_factory=list)
    cost: Cost = Cost()
    slowest: float = 0.0
    covered: float = 0.0
    measured: dict[str, list[tuple[int, float]]] = field(default_factory=lambda: defaultdict(list))

    def spend(self, cost: Cost) -> None:
        """Add what an update cost, whether or not it is accepted."""
        self.cost = self.cost + cost
        self.slowest = max(self.slowest, cost.busy)
        self.covered += cost.idle_watts * cost.busy

    def refuse(self, client: ClientId, reason: str) -> None:
        """Note that an update was not counted."""
        self.refused.append(Refusal(client, reason))

    def accept(self, update: ClientUpdate) -> None:
        """Count an update, and its metrics where a mean can be made of them."""
        self.accepted += 1
        for name, value in update.metrics.items():
            if is_measured(value):
                self.measured[name].append((update.num_examples, value))

    def report(self, round: int, metrics: Metrics) -> RoundReport:
        """The round's report; the strategy's `metrics` win over clients' of the same name."""
        means = {name: _mean(pairs) for name, pairs in self.measured.items()}
        # All wait for the slowest: sum_c idle_c (slowest - busy_c).
        waiting = self.cost.idle_watts * self.slowest - self.covered
        cost = replace(self.cost, joules=self.cost.joules + max(waiting, 0.0), idle_watts=0.0)
        metrics = {**means, **metrics}
        return RoundReport(round, self.accepted, tuple(self.refused), metrics, cost, self.slowest)


def _mean(pairs: list[tuple[int, float]]) -> float:
    """The weighted mean, the same bits in any order: `math.fsum` rounds once."""
    return math.fsum(n * value for n, value in pairs) / sum(n for n, _ in pairs)
