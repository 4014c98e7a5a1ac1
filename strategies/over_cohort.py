"""An aggregator out of a rule that looks at all updates of a cohort at once."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fedloom.core.errors import require
from fedloom.core.layout import Layout, Vector
from fedloom.core.types import ClientId, ClientUpdate, Delta, Params
from fedloom.strategies.base import Exacting
from fedloom.strategies.held_cohort import HeldCohort, hold

__all__ = ["OverCohort", "Rule", "check_absent", "held_mean"]


class Rule(Protocol):
    """What becomes of a cohort's updates."""

    def combined(self, held: HeldCohort, layout: Layout) -> Vector:
        """One vector in place of the updates', float32 ``[layout.size]``; zero where none has it.

        Args:
            held: the cohort, of as many updates as the rule needs.
            layout: the model's.
        """
        ...


@dataclass(frozen=True)
class OverCohort:
    """The updates are held on disk until the round ends; memory is clients times one block.

    Attributes:
        rule: what becomes of them.
        needs: which cohorts the rule works on.
    """

    rule: Rule
    needs: Exacting

    def check_cohort(self, clients: Collection[ClientId]) -> None:
        """Refuse a round that the rule cannot be applied to.

        Raises:
            ConfigError: as `needs` says.
        """
        self.needs.check_cohort(clients)

    def lacking(self, total: HeldCohort) -> int:
        """Updates that the total lacks for the rule."""
        return self.needs.lacking(total)

    def add(self, total: HeldCohort | None, update: ClientUpdate) -> HeldCohort:
        """Hold one decoded update, in any order.

        Raises:
            UpdateRefusedError: it cannot be held; the total is as it was.
            RunError: the disk does not take it.
        """
        return hold(total, update)

    def mean(self, params: Params, total: HeldCohort) -> Delta:
        """What the rule makes of the updates, over the layout of `params`.

        Raises:
            LayoutError: an update has a tensor that `params` lacks or holds in another shape.
            RunError: the disk cannot be read.
        """
        return Delta(params.layout, self.rule.combined(total, params.layout))


def check_absent(absent: str) -> None:
    """Look whether `absent` says what it means that an update lacks a tensor.

    Raises:
        ConfigError: it is neither ``skip`` nor ``unchanged``.
    """
    known = ("skip", "unchanged")
    require(absent in known, "absent", absent, f"one of {', '.join(known)}")


def held_mean(
    held: HeldCohort,
    layout: Layout,
    weights: NDArray[np.float64],
    absent: str,
    *,
    scale: NDArray[np.float64] | None = None,
) -> Vector:
    """The weighted mean of held updates, float32 ``[layout.size]``.

    Args:
        held: the cohort.
        layout: the model's.
        weights: of each client, sorted by client id, float64 ``[clients]``; none below 0.
        absent: ``skip``: a client that lacks a tensor has no say in it; ``unchanged``: it counts as
            a delta of zero.
        scale: what each client's update is multiplied by, float64 ``[clients]``; None for 1.
    """
    factors = weights if scale is None else weights * scale
    out = np.zeros(layout.size, dtype=np.float32)
    heard = np.flatnonzero(weights)
    weights, factors = weights[heard], factors[heard]
    for block in held.blocks(layout, chosen=heard):
        whole = float(weights[block.present].sum() if absent == "skip" else weights.sum())
        if whole > 0:
            out[block.span] = (factors / whole).astype(np.float32) @ block.rows
    return out
