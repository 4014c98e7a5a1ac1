"""How a cohort turns its data into updates: what a learner is given, and what it gives back."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fedloom.core.layout import Layout, Vector
from fedloom.core.steps import Steps
from fedloom.core.types import Briefing, ClientId, Cost, Delta, LocalWork, Params
from fedloom.tuning.base import Session

__all__ = ["IDLE", "NOTHING", "Assignment", "Learner", "LocalResult"]

NOTHING: Briefing = MappingProxyType({})
"""Nothing beside the model."""

IDLE = "it has neither labels nor pseudo-labels to learn from in this round"
"""Why a client whose result is of no examples sits a round out."""


@dataclass(frozen=True)
class Assignment:
    """What one client of a chunk trains on.

    Attributes:
        client: its id.
        rows: int64 ``[n]``, its training examples; at least one.
        round: number of the round.
        seed: the run's seed.
        batches: number of the round whose batches are used once more; 0 for new ones.
        own: what it holds for itself: tensors from which it starts in place of the global model's,
            and what its learner remembers (`fedloom.tuning.own`); None where it holds nothing.
        pull: added to every gradient of some of the tensors; None for nothing.
        rank: of the adapter, what it has; None for all of it. All of a chunk have the same.
    """

    client: ClientId
    rows: NDArray[np.int64]
    round: int
    seed: int
    batches: int = 0
    own: Params | None = None
    pull: Params | None = None
    rank: int | None = None


@dataclass(frozen=True)
class LocalResult:
    """What local training gave.

    Attributes:
        client: its id.
        layout: the tensors that trained.
        delta: local minus global, float32 ``[P]``; not finite where training diverged. Of tensors
            that the client keeps, minus where it started.
        num_examples: training examples behind it; 0 where there was nothing to learn from.
        metrics: ``loss`` and ``accuracy`` over all local steps.
        flops: floating-point operations, from the shapes.
        seconds: its share of the chunk's wall time.
        tokens: that it was trained on, once for each time that they were gone through.
        memory: bytes that its training holds at most, from the shapes.
        steps: what moved along known directions, beside `delta`; None for none.
        far: what moved on the far side of a split model, beside `delta`; None for nothing.
        bytes_up: bytes sent while training, over a split model.
        bytes_down: bytes received while training.
        kept: what it holds for itself from now on; None where it holds nothing.
        rank: of the adapter, what it has come to; None for the task's.
    """

    client: ClientId
    layout: Layout
    delta: Vector
    num_examples: int
    metrics: Mapping[str, float]
    flops: float
    seconds: float
    tokens: int = 0
    memory: int = 0
    steps: Steps | None = None
    far: Delta | None = None
    bytes_up: int = 0
    bytes_down: int = 0
    kept: Params | None = None
    rank: int | None = None

    def cost(self, bytes_down: int) -> Cost:
        """What it cost, beside so many bytes that came down for it; bytes up are the codec's."""
        return Cost(
            bytes_down=bytes_down,
            flops=self.flops,
            peak_memory=self.memory,
            seconds=self.seconds,
            tokens=self.tokens,
        )

    @property
    def whole(self) -> bool:
        """Whether all that it gave is finite."""
        kept = self.kept is None or bool(np.isfinite(self.kept.vector).all())
        return kept and bool(np.isfinite(self.delta).all())


class Learner(Protocol):
    """How a cohort turns its data into updates.

    One with an attribute `keeps` that is true lets clients start from `Assignment.own` and returns
    `LocalResult.kept`. One with `ranks` moves nothing that has no gradient, so that clients may
    have a part of the adapter's rank; one with `prunes` may give up some of theirs for good
    (`LocalResult.rank`). One with a method ``remembers(sent) -> Layout`` has clients
    hold those tensors besides (`fedloom.tuning.own`). One with an attribute `correction` goes with
    strategies that have the same. One whose passes hold several rows of a client says how
    many: by an attribute `copies`, or a method ``rows_at_once(tokens) -> int`` where that depends
    on the tokens of a batch. An attribute `loads` says how many bytes of libraries it makes torch
    load that others have no use for.
    """

    def train(
        self,
        session: Session,
        params: Params,
        work: LocalWork,
        cohort: Sequence[Assignment],
        briefing: Briefing = NOTHING,
    ) -> list[LocalResult]:
        """Train every client of a chunk; one result each, in the order of `cohort`.

        Args:
            session: the model.
            params: where every client starts.
            work: the numbers of local training.
            cohort: the clients.
            briefing: what the strategy sent beside the model.
        """
        ...
