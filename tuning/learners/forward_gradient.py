"""Directional derivatives by forward-mode differentiation: exact slopes from one pass.

Beside every number of the forward pass goes its derivative along a direction z (Baydin et al.,
"Gradients without Backpropagation", 2022, section 3.2; SPRY: Panchal et al., NeurIPS 2024), so that
the loss arrives with its slope ``g . z``. Nothing is kept for a way back: what is in memory is one
block's numbers and derivatives, however deep the model. There is no h to choose, and a pass takes
the time of three or so.

Directions, scalars and what is sent are those of `finite-difference`: clients of both can take part
in one round.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd import forward_ad

from fedloom.core.errors import ConfigError
from fedloom.core.layout import Selector
from fedloom.core.steps import Directions
from fedloom.core.types import Briefing, LocalWork, Params
from fedloom.tuning.base import Losses, Rows, Session
from fedloom.tuning.learners.forward_mode import FORWARD_MODE, PlainAttention
from fedloom.tuning.learners.search import Search
from fedloom.tuning.learners.spot import Spot, Trials, joined
from fedloom.tuning.learners.walk import Walk
from fedloom.tuning.learning import NOTHING, Assignment, LocalResult

__all__ = ["ForwardGradient", "Tangents"]


@dataclass(frozen=True)
class ForwardGradient:
    """Steps along random directions by forward-mode derivatives.

    Attributes:
        directions: of each local step, or of each example in it.
        exact: tensors whose gradient is taken exactly; the head's, or none.
        bits: of a scalar as it is sent and stepped along: 16, 8, or 1 (its sign).
        largest: slope that the largest scalar stands for; with one bit, what a sign stands for.
        scheme: whose directions: ``distinct``, ``shared``, ``pool`` or ``candidates``; as the codec
            has it.
        pool: directions in the pool, or candidates of a client.
        family: ``rademacher`` or ``gaussian``.
        per_example: every example of a batch has directions of its own.
        guided: the slope along the strategy's guide is found as well, and sent; see `Integers`.
        send: ``scalars``, or ``tensors`` for the delta number by number, by any local optimizer, as
            in SPRY.

    Raises:
        ConfigError: an option is out of range, or does not go with another.
    """

    kernel_needs = ("jvp_safe",)

    directions: int = 16
    exact: Selector = ("head",)
    bits: int = 16
    largest: float = 64.0
    scheme: str = "distinct"
    pool: int = 4096
    family: str = "rademacher"
    per_example: bool = False
    guided: bool = False
    send: str = "scalars"

    copies = 2
    """What a client takes at once: numbers and derivatives."""

    loads = 90 * 10**6
    """Torch keeps its rules of forward mode in Python, which it loads at the first derivative."""

    def __post_init__(self) -> None:
        _ = self.search

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
        """Train every client of a chunk; results are in the order of `cohort`.

        Raises:
            ConfigError: the model has an operation without forward-mode derivative.
        """
        return Walk(self.search, Tangents(), session, params, work, cohort, briefing).run()


@dataclass(frozen=True)
class Tangents:
    """Slopes by dual numbers: ``(w, z)`` in, ``(f(w), g . z)`` out."""

    passes: int = 2

    def at_once(self, tokens: int, device: torch.device) -> int:
        """One direction: memory is what this learner is chosen for."""
        return 1

    def check(self, spot: Spot, rows: Rows) -> None:
        """Nothing can be wrong that does not show in the first pass."""

    def slopes(self, spot: Spot, trials: Trials, here: Losses) -> NDArray[np.float64]:
        """Slopes along directions, float64 ``[r]``; see `Gauge`.

        Raises:
            ConfigError: the model has an operation without forward-mode derivative.
        """
        found = [self._part(spot, part, here) for part in spot.parts(trials)]
        return joined(found)

    def _part(self, spot: Spot, trials: Trials, here: Losses) -> Tensor:
        probe, values = spot.probe(trials)
        tangent = torch.zeros_like(values)
        tangent[:, spot.columns] = trials.z
        owner = torch.from_numpy(trials.owner).to(values.device)
        with torch.no_grad(), FORWARD_MODE, PlainAttention():
            probe.values = forward_ad.make_dual(values, tangent)
            try:
                losses = spot.session.losses(probe, trials.rows)
            except RuntimeError as error:
                if not any(word in str(error) for word in ("forward", "jvp")):
                    raise
                raise _refused(str(error).partition("\n")[0]) from error
            slope = forward_ad.unpack_dual(losses.loss).tangent
            if slope is None:
                raise _refused("the loss came without a derivative")
            share = losses.count.double() / here.count.double()[owner].clamp(min=1)
            found: Tensor = slope.double() * share
            return found


def _refused(why: str) -> ConfigError:
    text = f"forward-gradient: this model cannot be differentiated forwards ({why})"
    return ConfigError(f"{text}; use learner 'finite-difference'")
