"""Which of a job's kinds of devices this one can be, by what each takes of memory. No torch."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from fedloom.client.memory import Memory
from fedloom.core.component import Component
from fedloom.core.errors import ConfigError, ModelError
from fedloom.core.job import Job
from fedloom.core.sizes import megabytes
from fedloom.core.types import ClientTask, Params, Tier
from fedloom.tuning.learning import Assignment
from fedloom.tuning.ways import Way, best, least, said

__all__ = ["Fit", "Rationed", "chosen", "fits"]


class Rationed(Protocol):
    """A model, and the memory for it."""

    memory: Memory

    def ways_for(
        self, task: ClientTask, params: Params, component: Component, own: Assignment
    ) -> list[Way]:
        """How a task can be run with a learner, and what each way takes.

        Raises:
            ConfigError: this device's engine cannot run it.
        """
        ...


@dataclass(frozen=True)
class Fit:
    """How a kind of device would train.

    Attributes:
        tier: its name; empty for the job as it is.
        way: of the stage that takes most; None where one does not fit.
        total: bytes that the process takes at most in that way, or in the smallest there is.
        reason: why the device's engine cannot run it, whatever the memory; empty where it can.
    """

    tier: str
    way: Way | None
    total: int
    reason: str = ""

    def __str__(self) -> str:
        """In words."""
        if self.reason:
            return f"cannot be: {self.reason}"
        if self.way is None:
            return f"does not fit: {megabytes(self.total)} would be needed"
        return f"{said(self.way)}: {megabytes(self.total)} at most"


def fits(job: Job, ration: Rationed, params: Params, examples: int) -> list[Fit]:
    """What each kind of device takes here, in the job's order.

    Args:
        job: its tiers, or the job itself where it has none.
        ration: the model, and the memory for it.
        params: the model before the first round.
        examples: training examples of this device.
    """
    found = []
    for tier in job.tiers or (None,):
        name = "" if tier is None else tier.name
        try:
            ways = list(_stages(job, tier, ration, params, examples))
        except ConfigError as error:
            found.append(Fit(name, None, 0, str(error)))
        else:
            found.append(_fit(name, ways, ration.memory))
    return found


def chosen(found: Sequence[Fit]) -> str:
    """The first tier that fits: jobs name the best first.

    Raises:
        ModelError: none does; the message says what the smallest takes.
        ConfigError: none can be run by this device's engine.
    """
    for fit in found:
        if fit.way is not None:
            return fit.tier
    could = [fit for fit in found if not fit.reason]
    if not could:
        raise ConfigError(f"no tier of the job can be here; {found[0].tier}: {found[0].reason}")
    smallest = min(could, key=lambda fit: fit.total)
    text = f"tier {smallest.tier!r} takes least, {megabytes(smallest.total)}"
    raise ModelError(f"memory: no tier of the job fits in what may be taken here; {text}")


def _fit(name: str, stages: Sequence[Sequence[Way]], memory: Memory) -> Fit:
    room, base = memory.room(), memory.base
    ways = [best(ways, room) for ways in stages]
    if None in ways:
        return Fit(name, None, base + max(least(each).bytes for each in stages))
    largest = max((way for way in ways if way is not None), key=lambda way: way.bytes)
    return Fit(name, largest, base + largest.bytes)


def _stages(
    job: Job, tier: Tier | None, ration: Rationed, params: Params, examples: int
) -> Iterator[list[Way]]:
    for stage in job.stages:
        train = (tier and tier.train) or stage.train
        selectors = replace(stage.selectors, train=train)
        work = (tier and tier.local) or stage.local
        task = ClientTask("", 1, 0, work, selectors, seed=job.seed)
        own = Assignment("", np.arange(examples), 1, job.seed)
        learner = (tier and tier.learner) or job.learner
        yield ration.ways_for(task, params, learner, own)
