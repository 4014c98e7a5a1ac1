"""A model as a black box: losses of changed models, and nothing else.

Every candidate of every client of a chunk is a row of the same store, so that all of them run
through one frozen forward pass. No gradient is asked for, and no row is stepped.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedloom.core.types import Params
from fedloom.tuning.base import Losses, Rows, Session

__all__ = ["AT_ONCE", "Answers", "Oracle"]

AT_ONCE = 8
"""Candidates of a client that run in one forward pass."""


@dataclass(frozen=True)
class Answers:
    """What the black box says of k clients' batches under n changes each.

    Attributes:
        losses: float64 ``[k, n]``, means; not finite where a model overflows.
        correct: float64 ``[k, n]``, right predictions.
        count: float64 ``[k]``, predictions.
    """

    losses: NDArray[np.float64]
    correct: NDArray[np.float64]
    count: NDArray[np.float64]


class Oracle:
    """Answers how good changed models are.

    Args:
        session: the model.
        params: the global model, which changes are added to.
    """

    def __init__(self, session: Session, params: Params) -> None:
        self._session, self._near, self._params = session, session, params
        store = session.store(params, 1)
        self.layout = store.trained
        self.device = store.values.device
        self._start = store.start
        self._alone = bool(getattr(session, "one_row", False))

    def near(self, rows: Rows) -> None:
        """Say which batches will be asked about next: what is frozen of them is computed once."""
        self._near = self._session.over(np.concatenate(rows))

    def here(self, rows: Rows) -> Answers:
        """What it says of the model as it is."""
        return self.ask(rows, torch.zeros(len(rows), 1, self.layout.size, device=self.device))

    def ask(self, rows: Rows, changes: Tensor) -> Answers:
        """What it says of each client's batch under each change.

        Args:
            rows: the batches of k clients.
            changes: float32 ``[k, n, P]``; the clients' own, or those of all expanded.
        """
        clients, width = (1, 1) if self._alone else (len(rows), AT_ONCE)
        parts = [
            self._wide(rows[i : i + clients], changes[i : i + clients], width)
            for i in range(0, len(rows), clients)
        ]
        losses, correct, count = (torch.cat(several) for several in zip(*parts, strict=True))
        return Answers(*(x.double().cpu().numpy() for x in (losses, correct, count)))

    def _wide(self, rows: Rows, changes: Tensor, width: int) -> tuple[Tensor, Tensor, Tensor]:
        found = [self._ask(rows, part) for part in changes.split(width, dim=1)]
        losses, correct, count = zip(*found, strict=True)
        return torch.cat(losses, 1), torch.cat(correct, 1), count[0]

    def _ask(self, rows: Rows, changes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        k, n = changes.shape[:2]
        with torch.no_grad():
            store = self._near.store(self._params, k * n)
            store.values = (self._start + changes).flatten(0, 1)
            found = self._near.losses(store, [row for row in rows for _ in range(n)])
        return _means(found).view(k, n), found.correct.view(k, n), found.count.view(k, n)[:, 0]


def _means(found: Losses) -> Tensor:
    """Mean loss of each row, summed in float64: small differences of it are what counts."""
    counts = found.count.long()
    owner = torch.repeat_interleave(torch.arange(len(counts), device=counts.device), counts)
    sums = torch.zeros(len(counts), dtype=torch.float64, device=counts.device)
    return sums.index_add_(0, owner, found.each.double()) / counts.clamp(min=1)
