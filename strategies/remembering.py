"""What a strategy remembers of each client: server state of as many vectors as there are clients.

It is no part of `State`, or checkpoints would grow with the clients. Records lie in a file of their
own, transactional with the round (`fedloom.core.client_vectors`).
"""

from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from fedloom.core.errors import StrategyError
from fedloom.core.layout import Layout, Vector
from fedloom.core.types import ClientId, ClientUpdate, Params, State
from fedloom.strategies.base import Remembering, Strategy
from fedloom.strategies.contract import hook

__all__ = ["Memory", "Records", "folded", "layout_of"]


class Records(Protocol):
    """A vector for each client, round by round."""

    def begin(self, round: int) -> None:
        """Forget what was kept in this round and later ones."""
        ...

    def of(self, client: ClientId) -> Vector | None:
        """A client's newest vector; None where there is none."""
        ...

    def keep(self, client: ClientId, round: int, vector: Vector) -> None:
        """Keep a client's vector as it is after a round."""
        ...

    def commit(self, round: int) -> None:
        """What was kept in a round is safe when this returns."""
        ...


@dataclass(frozen=True, eq=False)
class Memory:
    """What one strategy remembers, in the rounds of one stage.

    Attributes:
        strategy: whose it is.
        layout: the tensors of a record.
        records: of all clients.
    """

    strategy: Remembering
    layout: Layout
    records: Records

    def begin(self, round: int) -> None:
        """A round begins, or begins again: nothing of it is remembered."""
        self.records.begin(round)

    def recalled(self, update: ClientUpdate) -> ClientUpdate:
        """The update, and what is remembered of its client."""
        own = self.records.of(update.client)
        return replace(update, remembered=None if own is None else Params(self.layout, own))

    def remember(self, state: State, update: ClientUpdate) -> None:
        """Keep what the strategy makes of an update that was folded in.

        Raises:
            StrategyError: it raised, or gave anything but finite numbers of the record's tensors.
        """
        with hook("remember", update.round):
            part = self.strategy.remember(state, update)
            if not isinstance(part, Params):
                raise StrategyError(f"returned {type(part).__name__}; expected Params")
            if not np.isfinite(part.vector).all():
                raise ValueError(f"what is remembered of {update.client!r} is not finite")
            before = update.remembered
            zeros = np.zeros(self.layout.size, dtype=np.float32)
            after = (before or Params(self.layout, zeros)).having(part)
        self.records.keep(update.client, update.round, after.vector)

    def commit(self, round: int) -> None:
        """A round's records are on the disk, before the state that follows it."""
        self.records.commit(round)


def folded(
    strategy: Strategy, state: State, total: Any | None, update: ClientUpdate, memory: Memory | None
) -> Any:
    """A round's running total with one more update, of whose client the strategy is reminded.

    Args:
        strategy: of the round.
        state: before the round.
        total: so far; as it was where this raises.
        update: decoded.
        memory: what the strategy remembers; None where that is nothing.

    Raises:
        UpdateRefusedError: the strategy refuses the update.
        StrategyError: it raised anything else, or remembers what cannot be kept.
    """
    if memory is not None:
        update = memory.recalled(update)
    with hook("accumulate", update.round):
        total = strategy.accumulate(total, update)
        if total is None:
            raise StrategyError("returned None; expected the total with this update in it")
    if memory is not None:
        memory.remember(state, update)
    return total


def layout_of(strategy: object, sent: Layout) -> Layout:
    """The tensors of a record; none where a strategy remembers nothing.

    Args:
        strategy: whose.
        sent: the tensors that clients of the stage send.

    Raises:
        StrategyError: it raised, or wants tensors that are not sent.
    """
    asked = getattr(strategy, "remembers", None)
    if asked is None:
        return Layout(())
    with hook("remembers", 0):
        found = asked(sent)
        if not isinstance(found, Layout):
            raise StrategyError(f"returned {type(found).__name__}; expected a Layout")
        sent.spans(found)
    return found
