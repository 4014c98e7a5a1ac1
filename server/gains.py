"""Whether a stage is still worth its rounds.

A stage may end before its time where the evaluation has not gained enough for some rounds, as the
first stage of FedOBD does (Chen et al., IJCAI 2023, section 4.3).
"""

from dataclasses import dataclass
from math import inf

from fedloom.core.job import Stage
from fedloom.core.types import Metrics

__all__ = ["Best"]


@dataclass(frozen=True)
class Best:
    """The best evaluation of a stage so far.

    Attributes:
        value: accuracy, or minus the loss where there is none; minus infinity without either.
        round: the round after which it was seen.
    """

    value: float = -inf
    round: int = 0

    @staticmethod
    def of(metrics: Metrics, number: int) -> "Best":
        """An evaluation after round `number`."""
        return Best(metrics.get("accuracy", -metrics.get("loss", inf)), number)

    def after(self, metrics: Metrics, number: int, stage: Stage) -> "Best":
        """The best after round `number` too; empty metrics, where none were due, change nothing.

        A round in which they were due and did not come is not one without a gain.
        """
        if metrics:
            found = Best.of(metrics, number)
            return found if found.value > self.value + stage.min_gain else self
        return Best(self.value, self.round + 1) if self.waited(number, stage) else self

    def waited(self, number: int, stage: Stage) -> bool:
        """Whether as many rounds as the stage has patience went by without a gain."""
        return 0 < stage.patience <= number - self.round
