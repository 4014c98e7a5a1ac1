"""Who trains what in a round."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from fedloom.core.errors import require
from fedloom.core.types import Client, ClientId, ClientTask, Cohort, LocalWork, State, Tier

__all__ = ["Constant", "fitted", "task_for"]


@dataclass(frozen=True)
class Constant:
    """The same work for every client of every round: what the job asks for, of its kind of device.

    Attributes:
        prox_mu: weight of FedProx's proximal term for every client, or None for the job's own.
    """

    prox_mu: float | None = None

    def __post_init__(self) -> None:
        if self.prox_mu is not None:
            require(0 <= self.prox_mu < float("inf"), "mu", self.prox_mu, "0 or more, and finite")

    def plan(self, state: State, cohort: Cohort) -> Mapping[ClientId, ClientTask]:
        """One task per client of the cohort, from the current version of the model."""
        tasks = (task_for(client, state, cohort) for client in cohort.clients)
        return {task.client: replace(task, work=self._work(task.work)) for task in tasks}

    def _work(self, work: LocalWork) -> LocalWork:
        return work if self.prox_mu is None else replace(work, prox_mu=self.prox_mu)


def task_for(client: Client, state: State, cohort: Cohort) -> ClientTask:
    """What the job asks of a client, from the current version of the model."""
    task = ClientTask(
        client=client.id,
        round=cohort.round,
        version=state.version,
        work=cohort.work,
        selectors=cohort.selectors,
        seed=cohort.seed,
    )
    for tier in cohort.tiers:
        if tier.name == client.tier:
            return fitted(task, tier)
    return task


def fitted(task: ClientTask, tier: Tier) -> ClientTask:
    """A task as a kind of device can do it."""
    selectors = task.selectors
    if tier.train is not None:
        selectors = replace(selectors, train=tier.train)
    return replace(
        task,
        learner=tier.learner or task.learner,
        codec=tier.codec or task.codec,
        work=tier.local or task.work,
        selectors=selectors,
    )
