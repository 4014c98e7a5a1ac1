"""What a strategy is, and the three smaller parts that built-in strategies are composed of."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fedloom.core.layout import Layout
from fedloom.core.types import (
    Briefing,
    ClientId,
    ClientTask,
    ClientUpdate,
    Cohort,
    Delta,
    Metrics,
    Params,
    State,
)

__all__ = [
    "Aggregator",
    "Branching",
    "Briefed",
    "Exacting",
    "Judged",
    "Planner",
    "Remembering",
    "ServerOptimizer",
    "Step",
    "Strategy",
]


class Strategy(Protocol):
    """A federated algorithm between the global state and a cohort's updates.

    A strategy object holds settings only. What changes from round to round is in `State`, a value:
    saving it is a checkpoint. A total is any value of the strategy's own, from `accumulate` only.
    """

    def init(self, params: Params) -> State:
        """The state before the first round, starting from `params`."""
        ...

    def configure(self, state: State, cohort: Cohort) -> Mapping[ClientId, ClientTask]:
        """What each client of the cohort is to do; a client left out sits the round out."""
        ...

    def accumulate(self, total: Any | None, update: ClientUpdate) -> Any:
        """Fold one decoded update into the running total (None before the first).

        The result must not depend on the order of the updates. The total given may be written
        into: whoever calls keeps only what is returned. The update is never written to.

        Raises:
            UpdateRefusedError: the update cannot be folded in. The total given is then as it was,
                and the round goes on with it.
        """
        ...

    def apply(self, state: State, total: Any | None) -> tuple[State, Metrics]:
        """The next state from the round's total, or from None when no update came."""
        ...


class Briefed(Protocol):
    """A strategy that sends its clients more than the model."""

    def briefing(self, state: State) -> Briefing:
        """Arrays that every client of the next round gets beside the model."""
        ...


class Branching(Protocol):
    """A strategy whose clients of one round start from different models."""

    def branches(self, state: State) -> Mapping[str, Params]:
        """The models beside the global one, by the name that tasks have as `ClientTask.branch`.

        A branch may lack tensors that this stage has never moved: they are as the global model has
        them.
        """
        ...


class Judged(Protocol):
    """A strategy that learns how well models do on what the server evaluates on."""

    def candidates(self, state: State) -> Mapping[str, Params]:
        """Whole models that are to be judged once `apply` has given `state`; empty for none."""
        ...

    def told(self, state: State, judged: Mapping[str, Metrics]) -> tuple[State, Metrics]:
        """The state of the same version once the candidates' metrics are known.

        Everything that it decides from is in them and in `state`.
        """
        ...


class Remembering(Protocol):
    """A strategy that remembers a vector for each client, such as a control variate.

    Its updates come to `accumulate` with `ClientUpdate.remembered`, the record of their client from
    before the round. The records are no part of the state; server and simulator keep them on disk,
    and a round that is begun again finds them as they were.
    """

    def remembers(self, sent: Layout) -> Layout:
        """The tensors of a record, of those that clients of the stage send."""
        ...

    def remember(self, state: State, update: ClientUpdate) -> Params:
        """A client's record once its update is folded in.

        Args:
            state: the state before the round.
            update: as `accumulate` had it.

        Returns:
            The tensors of the record that change; the others stay, at first zero.
        """
        ...


class Planner(Protocol):
    """Who trains, sends and receives what this round."""

    def plan(self, state: State, cohort: Cohort) -> Mapping[ClientId, ClientTask]:
        """The tasks of one round."""
        ...


class Exacting(Protocol):
    """An aggregator that does not work with just any clients."""

    def check_cohort(self, clients: Collection[ClientId]) -> None:
        """Look at who is to have a task, before the round starts; it may be nobody.

        Raises:
            ConfigError: they cannot make a round; the message says who can.
        """
        ...

    def lacking(self, total: Any) -> int:
        """Updates that a round's total lacks, since clients dropped out; 0 where `mean` works."""
        ...


class Aggregator(Protocol):
    """How updates become one pseudo-gradient."""

    def add(self, total: Any | None, update: ClientUpdate) -> Any:
        """Fold one decoded update into the total, in any order; as `Strategy.accumulate`."""
        ...

    def mean(self, params: Params, total: Any) -> Delta:
        """The round's mean delta over the whole layout of `params`."""
        ...


@dataclass(frozen=True)
class Step:
    """What a server optimizer returns.

    Attributes:
        vector: the next global vector, float32 ``[P]``.
        slots: the optimizer's next arrays, by name.
    """

    vector: NDArray[np.float32]
    slots: Mapping[str, NDArray[np.generic]]


class ServerOptimizer(Protocol):
    """How a mean delta moves the global model."""

    def step(self, state: State, delta: Delta) -> Step:
        """One step from ``state.params`` along `delta` (local minus global)."""
        ...
