"""Ranks that clients have pruned theirs to: what they say of a round is what they get in the next.

One number for each client, on disk beside what strategies remember, and transactional with the
round as that is (`fedloom.core.client_vectors`): a round that is begun again, or a run that goes on
from an earlier checkpoint, finds the ranks of before it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from fedloom.core.layout import Layout, TensorSpec
from fedloom.core.ranks import RANK
from fedloom.core.types import ClientId, ClientTask, ClientUpdate
from fedloom.strategies.remembering import Records

__all__ = ["RECORD", "PrunedRanks"]

RECORD = Layout((TensorSpec(RANK, (1,)),))
"""What there is of each client."""


@dataclass(frozen=True, eq=False)
class PrunedRanks:
    """The ranks of a stage's clients.

    Attributes:
        records: of all clients, of `RECORD`.
    """

    records: Records

    def begin(self, round: int) -> None:
        """A round begins, or begins again: nothing that was said in it is known."""
        self.records.begin(round)

    def limited(self, tasks: Mapping[ClientId, ClientTask]) -> Mapping[ClientId, ClientTask]:
        """The tasks, none of a higher rank than its client has come to."""
        found = dict(tasks)
        for client, task in tasks.items():
            own = self.records.of(client)
            if own is not None:
                rank = int(own[0])
                found[client] = replace(task, rank=min(rank, task.rank or rank))
        return found

    def note(self, update: ClientUpdate) -> None:
        """Keep what a client has come to, of an update that was let in."""
        rank = update.metrics.get(RANK)
        if rank is not None:
            vector = np.array([rank], dtype=np.float32)
            self.records.keep(update.client, update.round, vector)

    def commit(self, round: int) -> None:
        """A round's ranks are on the disk, before the state that follows it."""
        self.records.commit(round)
