"""Who trains what in a round."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from fedloom.core.cuts import MIB
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
    """What the job asks of a client, from the current version of the model.

    Of a split model it takes the blocks that its kind of device has; else as many as the smaller
    of two memories holds: its own, and that of its kind. Where neither is known, the job's.
    """
    task = ClientTask(
        client=client.id,
        round=cohort.round,
        version=state.version,
        work=cohort.work,
        selectors=cohort.selectors,
        seed=cohort.seed,
    )
    tier = next((tier for tier in cohort.tiers if tier.name == client.tier), None)
    if tier is not None:
        task = fitted(task, tier)
    if cohort.cuts is None or task.bottom is not None:
        return task
    said = (client.memory, tier.memory_mb * MIB if tier else 0)
    memory = min((one for one in said if one), default=0)
    return replace(task, bottom=cohort.cuts.bottom(memory, task.work)) if memory else task


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
        bottom=tier.bottom,
        rank=tier.rank,
    )
