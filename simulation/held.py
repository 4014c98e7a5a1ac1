"""Which version of the model each simulated client holds, so that what it is sent is counted right.

Simulated clients keep nothing; a real one keeps the model of the last round that it was asked in
and is sent what happened since. The numbers are a slot of the state, so that a resumed run counts
what an unbroken one does.
"""

from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from fedloom.codecs.downlink import Downlink
from fedloom.core.types import ClientId, ClientTask, ClientUpdate, Cohort, Refusal, State
from fedloom.simulation.population import Population

__all__ = ["SLOT", "Held"]

SLOT = "downlink/held"
Dispatch: TypeAlias = Callable[
    [Mapping[ClientId, ClientTask]], AsyncIterator[ClientUpdate | Refusal]
]


@dataclass(eq=False)
class Held:
    """What the clients of a population hold.

    Attributes:
        population: the clients.
        versions: int32 ``[clients]``, as `Downlink` numbers them; 0, which every client can make,
            for one that was not asked yet. None while nobody needs to keep any.
    """

    population: Population
    versions: NDArray[np.int32] | None

    @staticmethod
    def taken_from(state: State, population: Population) -> tuple[State, "Held"]:
        """A state as its strategy knows it, and what was noted beside it."""
        slots = dict(state.slots)
        versions = slots.pop(SLOT, None)
        known = None if versions is None else versions.astype(np.int32)
        return replace(state, slots=slots), Held(population, known)

    def put_into(self, state: State) -> State:
        """The state with what was noted."""
        if self.versions is None:
            return state
        return replace(state, slots={**state.slots, SLOT: self.versions})

    def sizes(self, model: Downlink, cohort: Cohort) -> dict[ClientId, int]:
        """Bytes that each client of a cohort is sent of a model."""
        return {
            client.id: model.form(self._of(client.id)).payload.nbytes for client in cohort.clients
        }

    def noting(self, model: Downlink, dispatch: Dispatch) -> Dispatch:
        """A dispatch after which those that got a task hold what they were sent."""

        def noted(tasks: Mapping[ClientId, ClientTask]) -> AsyncIterator[ClientUpdate | Refusal]:
            if model.ledger is not None:
                if self.versions is None:
                    self.versions = np.zeros(len(self.population), dtype=np.int32)
                for name in (name for name, task in tasks.items() if not task.branch):
                    keeps = model.form(self._of(name)).keeps
                    self.versions[self.population.partition.index_of(name)] = keeps
            return dispatch(tasks)

        return noted

    def _of(self, name: ClientId) -> int:
        if self.versions is None:
            return 0
        return int(self.versions[self.population.partition.index_of(name)])
