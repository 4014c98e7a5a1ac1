"""A session whose examples are taught what a table says, instead of their own labels."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from fedloom.core.types import Params
from fedloom.tuning.base import Losses, Rows, Scoring
from fedloom.tuning.losses import taught_losses
from fedloom.tuning.store import Store

__all__ = ["Lesson", "Taught", "said"]

AT_ONCE = 64  # examples in one pass of a teacher

Table = NDArray[np.float32]
Numbers = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Lesson:
    """What one client learns from in a round.

    Attributes:
        rows: int64 ``[n]``, each once.
        taught: float32 ``[n, C]``, a distribution over the classes for each.
        pseudo: how many of them a teacher made.
    """

    rows: Numbers
    taught: Table
    pseudo: int = 0


class Taught:
    """A `Session` of a classifier that learns lessons.

    Args:
        session: the classifier.
        lessons: of the clients, whose rows differ.
    """

    def __init__(self, session: Scoring, lessons: list[Lesson]) -> None:
        rows = np.concatenate([lesson.rows for lesson in lessons])
        taught = np.concatenate([lesson.taught for lesson in lessons])
        order = np.argsort(rows, kind="stable")
        self._session, self._rows, self._taught = session, rows[order], taught[order]

    def store(self, params: Params, clients: int) -> Store:
        """Rows for k clients, all starting from the global model."""
        return self._session.store(params, clients)

    def losses(self, store: Store, rows: Rows) -> Losses:
        """One batch of the active clients: what they say against what they are taught."""
        places = np.searchsorted(self._rows, np.concatenate(rows))
        return taught_losses(self._session.logits(store, rows), self._taught[places], rows)

    def tokens(self, rows: Numbers) -> int:
        """Tokens in the examples `rows`."""
        return self._session.tokens(rows)

    def over(self, rows: Numbers) -> "Taught":
        """Itself: steps are few, each over other examples."""
        return self

    def flops(self, tokens: int) -> float:
        """Floating-point operations of one step over so many tokens."""
        return self._session.flops(tokens)

    def memory(self, tokens: int, *, backward: bool) -> int:
        """Bytes held while a batch of so many tokens runs: the table is small beside the model."""
        return self._session.memory(tokens, backward=backward)


def said(session: Scoring, params: Params, rows: Numbers, *, temperature: float = 1.0) -> Table:
    """What the model `params` says of examples: softmax(z / temperature), float32 ``[n, C]``."""
    with torch.no_grad():
        store = session.store(params, 1)
        parts = [
            session.logits(store, [rows[start : start + AT_ONCE]]).float()
            for start in range(0, len(rows), AT_ONCE)
        ]
        found: Table = torch.softmax(torch.cat(parts) / temperature, dim=-1).cpu().numpy()
    return found
