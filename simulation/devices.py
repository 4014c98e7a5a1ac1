"""Which device a simulated client has: its kind's, or else the job's."""

from collections.abc import Callable
from typing import cast

from fedloom.core.devices import Device
from fedloom.core.job import Job
from fedloom.core.registry import Component, create
from fedloom.core.types import ClientId
from fedloom.simulation.population import Population

__all__ = ["devices_of", "outgrown"]


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


def outgrown(job: Job, held: int) -> str:
    """What to say where a client held more bytes than any of the job's devices has; else empty."""
    kinds = [job.device, *(tier.device for tier in job.tiers if tier.device is not None)]
    memory = [device.memory_mb for kind in kinds if (device := _made(kind)) is not None]
    if not memory or held <= max(memory) * 2**20:
        return ""
    return f"a client held {held / 2**20:,.0f} MiB; its device has {max(memory):,.0f}"


def _made(device: Component) -> Device | None:
    return cast("Device | None", create("devices", device))
