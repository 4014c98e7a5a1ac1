"""When a round ends: fixed timeouts are guesses, so the updates that came say how long to wait.

Arrival times have a long tail; their median and the median absolute deviation from it (MAD) do not
move with it, as a mean and a standard deviation would (Hampel, "The influence curve and its role in
robust estimation", JASA 1974, section 5.4).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

__all__ = ["Deadline"]

_DEVIATIONS = 4.0


@dataclass(frozen=True)
class Deadline:
    """The terms on which a round waits.

    Attributes:
        asked: clients that were asked for an update.
        goal: updates with which the round ends at once.
        minimum: updates without which it ends only at `longest`.
        patience: seconds waited after the last update while nearly everyone is missing; in
            proportion less while fewer are.
        longest: seconds after which it ends whatever came.
    """

    asked: int
    goal: int
    minimum: int
    patience: float
    longest: float

    def among(self, count: int) -> "Deadline":
        """The terms where only so many of those asked have a task: in proportion."""
        if count == self.asked:
            return self
        goal, minimum = (-(-own * count // self.asked) for own in (self.goal, self.minimum))
        return replace(self, asked=count, goal=goal, minimum=minimum)

    def is_over(self, age: float, arrivals: Sequence[float]) -> bool:
        """Whether a round with these arrivals has ended at an age of so many seconds.

        What `ends` says, at no cost while arrivals come in: asked after each of n of them, it
        would take n^2.
        """
        missing = self.asked - len(arrivals)
        waiting = missing > 0 and len(arrivals) < self.goal
        if waiting and arrivals:
            least = arrivals[-1] + self.patience * missing / self.asked
            if age < min(least, self.longest):
                return False
        return age >= self.ends(arrivals)

    def ends(self, arrivals: Sequence[float]) -> float:
        """Seconds after its opening at which a round with these arrivals so far ends.

        With `goal` arrivals, or one of everybody asked, that is when the last of them came; with
        fewer than `minimum` it is `longest`. In between it is ``median + 4 MAD`` of the arrivals,
        but not before ``last + patience * missing / asked``. Never after `longest`.

        Args:
            arrivals: seconds from the round's opening to each update so far, in any order.
        """
        times = np.sort(np.asarray(arrivals, dtype=np.float64))
        enough = max(1, min(self.goal, self.asked))
        if len(times) >= enough:
            return min(float(times[enough - 1]), self.longest)
        if len(times) < max(1, self.minimum):
            return self.longest
        median = float(np.median(times))
        spread = float(np.median(np.abs(times - median)))
        missing = (self.asked - len(times)) / self.asked
        waited = float(times[-1]) + self.patience * missing
        return min(max(median + _DEVIATIONS * spread, waited), self.longest)
