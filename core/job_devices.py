"""Which devices a job's clients have: those of their tiers, or else the job's."""

from collections.abc import Callable
from typing import cast

from fedloom.core.devices import Device
from fedloom.core.job import Job
from fedloom.core.registry import Component, create

__all__ = ["device_by_tier", "outgrown"]


def device_by_tier(job: Job) -> Callable[[str], Device | None]:
    """Says of a tier's name which device its clients have; None where none is modelled.

    Raises:
        ConfigError: a device that the job names is not known, or has no such figure.
    """
    default = _made(job.device)
    kinds = {tier.name: _made(tier.device) for tier in job.tiers if tier.device is not None}
    return lambda tier: kinds.get(tier, default)


def outgrown(job: Job, held: int) -> str:
    """What to say where a client held more bytes than any of the job's devices has; else empty."""
    kinds = [job.device, *(tier.device for tier in job.tiers if tier.device is not None)]
    memory = [device.memory_mb for kind in kinds if (device := _made(kind)) is not None]
    if not memory or held <= max(memory) * 2**20:
        return ""
    return f"a client held {held / 2**20:,.0f} MiB; its device has {max(memory):,.0f}"


def _made(device: Component) -> Device | None:
    return cast("Device | None", create("devices", device))
