"""Which device a simulated client has: its kind's, or else the job's."""

from collections.abc import Callable
from typing import cast

from fedloom.core.devices import Device
from fedloom.core.job import Job
from fedloom.core.registry import Component, create
from fedloom.core.types import ClientId
from fedloom.simulation.population import Population

__all__ = ["devices_of"]


def devices_of(job: Job, population: Population) -> Callable[[ClientId], Device | None]:
    """Says of a client whose time and energy it takes; None where that is not counted.

    Raises:
        ConfigError: a device that the job names is not known, or has no such figure.
    """
    default = _made(job.device)
    kinds = {tier.name: _made(tier.device) for tier in job.tiers if tier.device is not None}
    if not kinds:
        return lambda client: default
    return lambda client: kinds.get(population.tier(client), default)


def _made(device: Component) -> Device | None:
    return cast("Device | None", create("devices", device))
