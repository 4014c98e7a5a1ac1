"""What all rules have in common that say what the next factors are: a pair in, a pair out."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import hypot
from typing import Protocol

import numpy as np

from fedloom.core.layout import Layout
from fedloom.core.types import ClientUpdate, Delta, Metrics, Params
from fedloom.strategies.held_cohort import HeldCohort, hold
from fedloom.strategies.lora.algebra import Factors, Matrix
from fedloom.strategies.lora.pairs import Member, Pair, averaged, members, pairs_of, require_side

__all__ = ["Next", "PairRule", "Rule", "padded_mean"]


@dataclass(frozen=True, eq=False)
class Next:
    """What becomes of one module.

    Attributes:
        pair: the next B and A.
        side: what the server has beside them; None where that stays.
        kept: Frobenius norm of what was compressed, as it is now.
        lost: Frobenius norm of what compressing cut off.
    """

    pair: Factors
    side: Factors | None = None
    kept: float = 0.0
    lost: float = 0.0


class Rule(Protocol):
    """The mathematics of a method, for one module at a time."""

    name: str
    """What users call it."""
    needs_side: bool
    """Whether it puts something beside the pair."""

    def next(self, params: Params, pair: Pair, cohort: Sequence[Member]) -> Next:
        """The next factors.

        Args:
            params: the model before the round.
            pair: of which module.
            cohort: the clients that sent some of it, by id; one at least.
        """
        ...


@dataclass(frozen=True)
class PairRule:
    """An aggregator that says what every pair is to be; other tensors become the mean of theirs.

    It holds the cohort on disk and works module by module: memory is what one module of every
    client takes, and the order in which updates come does not matter.

    Attributes:
        rule: the method.
    """

    rule: Rule
    sets = True
    takes_ranks = True

    def check_model(self, layout: Layout) -> None:
        """Look whether the adapter has what the method needs.

        Raises:
            ConfigError: pairs have no side-car, and it needs one.
        """
        if self.rule.needs_side:
            require_side(layout, self.rule.name)

    def add(self, total: HeldCohort | None, update: ClientUpdate) -> HeldCohort:
        """Hold one more update; see `hold`."""
        return hold(total, update)

    def mean(self, params: Params, total: HeldCohort) -> Delta:
        """From the model to what the method says it is to be."""
        return self.measured(params, total)[0]

    def measured(self, params: Params, total: HeldCohort) -> tuple[Delta, Metrics]:
        """The same, and what compressing lost, relative, in the Frobenius norm of all modules.

        It is called ``side_lost`` where the side-car is compressed, else ``rank_lost``.
        """
        layout, after = params.layout, params.vector.copy()
        kept = lost = 0.0
        pairs = pairs_of(layout)
        for pair in pairs:
            cohort = list(members(params, pair, total))
            if not cohort:
                continue
            found = self.rule.next(params, pair, cohort)
            for name, tensor in _tensors(pair, found):
                layout.view(after, name)[...] = tensor
            kept, lost = hypot(kept, found.kept), hypot(lost, found.lost)
        own = {name for pair in pairs for name in (pair.a, pair.b, pair.side_a, pair.side_b)}
        rest = averaged(params, total, Layout(tuple(s for s in layout if s.name not in own)))
        change = layout.scatter(after - params.vector, rest.layout, rest.vector)
        whole, name = hypot(kept, lost), "side_lost" if self.rule.needs_side else "rank_lost"
        return Delta(layout, change), {name: lost / whole} if whole else {}


def padded_mean(cohort: Sequence[Member], rank: int, weights: Sequence[float]) -> Factors:
    """Weighted means of B and of A, each by itself; what a client has no room for is zero."""
    first = cohort[0].factors
    b, a = np.zeros((first.b.shape[0], rank)), np.zeros((rank, first.a.shape[1]))
    for member, weight in zip(cohort, weights, strict=True):
        own = member.factors.a.shape[0]
        b[:, :own] += weight * member.factors.b
        a[:own] += weight * member.factors.a
    return Factors(b, a)


def _tensors(pair: Pair, found: Next) -> Iterator[tuple[str, Matrix]]:
    yield pair.b, found.pair.b
    yield pair.a, found.pair.a
    if found.side is not None:
        yield pair.side_b, found.side.b
        yield pair.side_a, found.side.a
