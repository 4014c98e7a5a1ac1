"""Where clients stand while they look along directions, and what they look at from there."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedloom.core.types import Params
from fedloom.tuning.base import Rows, Session
from fedloom.tuning.learners.choice import Chosen
from fedloom.tuning.store import Store

__all__ = ["Spot", "Trials", "joined", "segments", "trials_of"]


@dataclass(frozen=True)
class Trials:
    """What `Chosen` says, with its directions ``z [r, d]`` as a tensor."""

    owner: NDArray[np.int64]
    numbers: NDArray[np.int64]
    rows: Rows
    z: Tensor
    single: bool

    def part(self, start: int, stop: int) -> "Trials":
        """Some of them."""
        span = slice(start, stop)
        return replace(
            self,
            owner=self.owner[span],
            numbers=self.numbers[span],
            rows=self.rows[span],
            z=self.z[span],
        )


def trials_of(chosen: Chosen, device: torch.device) -> Trials:
    """Chosen directions on a device."""
    z = torch.from_numpy(chosen.z).to(device)
    return Trials(chosen.owner, chosen.numbers, chosen.rows, z, chosen.single)


@dataclass(frozen=True)
class Spot:
    """Clients in the middle of their round.

    Attributes:
        session: the model, over the examples of the present step.
        params: where every client started.
        store: where they stand now.
        columns: int64 ``[d]``: the columns of the store that directions move.
    """

    session: Session
    params: Params
    store: Store
    columns: Tensor

    def parts(self, trials: Trials) -> Iterator[Trials]:
        """All trials at once, or one by one where the model runs no more than one row."""
        if not getattr(self.session, "alone", False):
            yield trials
            return
        for i in range(len(trials.rows)):
            yield trials.part(i, i + 1)

    def probe(self, trials: Trials) -> tuple[Store, Tensor]:
        """Rows for trials, and their values ``[r, P]``: a copy of where their owners stand."""
        probe = self.session.store(self.params, len(trials.rows))
        owner = torch.from_numpy(trials.owner).to(self.store.values.device)
        return probe, self.store.values.index_select(0, owner)


def segments(values: Tensor, counts: Tensor) -> Tensor:
    """Sums of `values` ``[n]`` over pieces of so many, in float64 ``[len(counts)]``.

    In float64: differences of sums are what is measured.
    """
    whole = counts.long()
    owner = torch.repeat_interleave(torch.arange(len(whole), device=whole.device), whole)
    sums = torch.zeros(len(whole), dtype=torch.float64, device=whole.device)
    return sums.index_add_(0, owner, values.double())


def joined(found: Sequence[Tensor]) -> NDArray[np.float64]:
    """Pieces laid end to end, in memory."""
    return np.asarray(torch.cat(list(found)).double().cpu().numpy(), dtype=np.float64)
