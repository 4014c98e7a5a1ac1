"""Who trains what in a round."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from fedloom.core.errors import require
from fedloom.core.types import ClientId, ClientTask, Cohort, LocalWork, State

__all__ = ["Constant"]


@dataclass(frozen=True)
class Constant:
    """The same work for every client of every round: what the job asks for.

    Attributes:
        prox_mu: weight of FedProx's proximal term for every client, or None for the job's own.
    """

    prox_mu: float | None = None

    def __post_init__(self) -> None:
        if self.prox_mu is not None:
            require(0 <= self.prox_mu < float("inf"), "mu", self.prox_mu, "0 or more, and finite")

    def plan(self, state: State, cohort: Cohort) -> Mapping[ClientId, ClientTask]:
        """One task per client of the cohort, from the current version of the model."""
        work = self._work(cohort.work)
        return {
            client.id: ClientTask(
                client=client.id,
                round=cohort.round,
                version=state.version,
                work=work,
                selectors=cohort.selectors,
                seed=cohort.seed,
            )
            for client in cohort.clients
        }

    def _work(self, work: LocalWork) -> LocalWork:
        return work if self.prox_mu is None else replace(work, prox_mu=self.prox_mu)
