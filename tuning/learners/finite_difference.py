"""Directional derivatives from losses alone: nothing but forward passes of the frozen backbone.

For a direction z and a small h,

    s = (f(w + h z) - f(w)) / h              one-sided: the loss at w is shared by all directions
    s = (f(w + h z) - f(w - h z)) / (2 h)    central: a pair of antithetic directions

estimate the slope of the loss along z. A client's directions are rows of the same store that holds
clients: k clients times p directions run through one frozen forward, as many directions at once
as small batches leave room for. Nothing here loads torch before it trains.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from fedloom.core.errors import require
from fedloom.core.layout import Selector
from fedloom.core.steps import Directions
from fedloom.core.types import Briefing, LocalWork, Params
from fedloom.tuning.base import Session
from fedloom.tuning.learners.reach import MOST, at_once
from fedloom.tuning.learners.search import Search
from fedloom.tuning.learning import NOTHING, Assignment, LocalResult

__all__ = ["FiniteDifference"]


@dataclass(frozen=True)
class FiniteDifference:
    """Zeroth-order steps, sent as scalars of known directions.

    A step of local training takes `directions` of them on one batch and moves along their mean.

    Attributes:
        directions: of each local step, or of each example in it.
        difference: ``one-sided`` or ``central``.
        h: how far to look (0: ``0.2 / sqrt(d)`` for weights in float32, ``5 / sqrt(d)`` for
            bfloat16, which rounds away less).
        exact: tensors whose gradient is taken exactly; the head's, or none.
        bits: of a scalar as it is sent and stepped along: 16, 8, or 1 (its sign).
        largest: slope that the largest scalar stands for; with one bit, what a sign stands for.
        scheme: whose directions: ``distinct``, ``shared``, ``pool`` or ``candidates``; as the codec
            has it.
        pool: directions in the pool, or candidates of a client.
        family: ``rademacher`` or ``gaussian``.
        per_example: every example of a batch has directions of its own: as many scalars from one
            pass as there are examples. It pays where a client's examples are of one kind.
        guided: the slope along the strategy's guide is found as well, and sent; see `Integers`.
        send: ``scalars``, or ``tensors`` for the delta number by number, by any local optimizer.
        at_once: directions of a client that run in one forward pass. With 1, a step takes hardly
            more memory than inference; what is found differs by float association only.

    Raises:
        ConfigError: an option is out of range, or does not go with another.
    """

    kernel_needs = ("fd_safe",)

    directions: int = 16
    difference: str = "one-sided"
    h: float = 0.0
    exact: Selector = ("head",)
    bits: int = 16
    largest: float = 64.0
    scheme: str = "distinct"
    pool: int = 4096
    family: str = "rademacher"
    per_example: bool = False
    guided: bool = False
    send: str = "scalars"
    at_once: int = MOST

    copies = 2
    """Rows of a client at once: its own, and a direction's."""

    loads = 16 * 10**6
    """What drawing directions takes; measured."""

    def __post_init__(self) -> None:
        require(1 <= self.at_once <= MOST, "at_once", self.at_once, f"1 to {MOST}")
        known = ("one-sided", "central")
        require(self.difference in known, "difference", self.difference, f"one of {known}")
        require(0 <= self.h < float("inf"), "h", self.h, "0 (chosen by the dimension) or more")
        _ = self.search

    def rows_at_once(self, tokens: int) -> int:
        """Rows of a client in a pass, for batches of so many tokens, and what is kept of them."""
        return 1 + at_once(tokens, self.at_once)

    @property
    def search(self) -> Search:
        """What does not depend on how slopes are found."""
        return Search(
            directions=self.directions,
            exact=self.exact,
            bits=self.bits,
            largest=self.largest,
            agreed=Directions(self.scheme, self.pool, self.family),
            per_example=self.per_example,
            guided=self.guided,
            send=self.send,
        )

    def train(
        self,
        session: Session,
        params: Params,
        work: LocalWork,
        cohort: Sequence[Assignment],
        briefing: Briefing = NOTHING,
    ) -> list[LocalResult]:
        """Train every client of a chunk; results are in the order of `cohort`."""
        from fedloom.tuning.learners.differences import Differences
        from fedloom.tuning.learners.walk import Walk

        gauge = Differences(self.difference == "central", self.h, self.at_once)
        return Walk(self.search, gauge, session, params, work, cohort, briefing).run()
