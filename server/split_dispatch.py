"""A live round over a split model: what comes of clients is joined with what moved far away."""

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from fedloom.codecs.exchange import with_far
from fedloom.core.types import ClientId, ClientTask, ClientUpdate, Params, Refusal
from fedloom.server.failpoints import reach
from fedloom.server.live_round import LiveRound
from fedloom.server.split_round import SplitRound

if TYPE_CHECKING:
    from fedloom.server.split_hosting import Hosting

__all__ = ["SplitDispatch"]


@dataclass(frozen=True, eq=False)
class SplitDispatch:
    """Dispatches the tasks of one round (`fedloom.server.round.Dispatch`), and hosts its far side.

    Where each client has far tensors of its own, its update is joined as it comes. Where they share
    them, all are joined once no more is taken, read from the disk again: what is in memory does not
    grow with the clients.

    Attributes:
        round: dispatches what clients hold.
        hosting: of the far side.
        params: the model that the round begins with.
        norm_bound: largest L2 norm of a delta, both parts together (0: any finite one).
    """

    round: LiveRound
    hosting: "Hosting"
    params: Params
    norm_bound: float = 0.0

    async def __call__(
        self, tasks: Mapping[ClientId, ClientTask]
    ) -> AsyncIterator[ClientUpdate | Refusal]:
        """Hand tasks out and yield what comes, whole.

        Raises:
            Stopped: the server is told to end.
            TooFewError: it is over with fewer updates than its minimum; they stay in the ledger.
            FedloomError: the far side cannot begin.
        """
        far = self.hosting.begin(self.round.opened, self.params, tasks)
        async for found in self.round(tasks):
            far.leave(found.client)
            if isinstance(found, Refusal):
                yield found
            elif not far.split.shared:
                yield self._joined(far, found)
        self.hosting.over()
        if far.split.shared:
            for update in self.round.once_more(tasks):
                yield self._joined(far, update)

    def _joined(self, far: SplitRound, update: ClientUpdate) -> ClientUpdate | Refusal:
        assert update.delta is not None  # the gate has decoded it
        moved, legs = far.moved(update.client)
        reach("far-joined")
        found = with_far(update, update.delta, moved)
        assert found.delta is not None
        with np.errstate(over="ignore"):  # infinity is above any bound
            norm = float(np.linalg.norm(found.delta.vector))
        if self.norm_bound and norm > self.norm_bound:
            text = f"norm = {norm:.6g} with what moved far away: at most {self.norm_bound:g}"
            return Refusal(update.client, text)
        if legs is None:
            return found
        up, down = found.cost.bytes_up + legs.sent, found.cost.bytes_down + legs.received
        return replace(found, cost=replace(found.cost, bytes_up=up, bytes_down=down))
