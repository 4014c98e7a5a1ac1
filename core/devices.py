"""What kinds of devices do in a second and draw meanwhile: how simulated updates get their costs.

A figure with a source names it. All others are **assumptions** of the right order: take
``device = { name = "custom", ... }``, or a named one with changes, where they matter.

- Raspberry Pi 5: 36.7 GFLOP/s and 12 W in High-Performance Linpack, in float64 (J. Geerling's
  sbc-reviews, number 21); training in float32 is taken to reach as much.
- Raspberry Pi 4: 1.9 times slower than a Pi 5 in Flower's example of Whisper on Raspberry Pis.
- Jetson TX2: seconds of a step of BERT-base by trained blocks, and 1 MB/s both ways, as the
  released simulation of FedAdapter has them (Cai et al., MobiCom 2023, ``trial_error.py``).
"""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass

from fedloom.core.config import build
from fedloom.core.cost import Cost
from fedloom.core.errors import require
from fedloom.core.layout import Layout

__all__ = ["Device", "depth", "laptop", "none", "orin", "phone", "rpi4", "rpi5", "tx2"]


@dataclass(frozen=True)
class Device:
    """A kind of device of your own.

    Attributes:
        flops: floating-point operations per second that training reaches, not the peak.
        memory_mb: MiB of memory.
        up: bytes per second that it sends.
        down: bytes per second that it receives.
        latency: seconds of a round trip, one for each round's exchange.
        watts_compute: drawn while it computes.
        watts_network: drawn while it sends, receives or waits for an answer.
        watts_idle: drawn while it waits for the slowest of its round.
        step_seconds: seconds of a training step by how many blocks train, from none; where given,
            it stands in place of `flops`, and more blocks take as long as the last entry says.
    """

    flops: float = 20e9
    memory_mb: float = 4096.0
    up: float = 1e6
    down: float = 1e6
    latency: float = 0.1
    watts_compute: float = 10.0
    watts_network: float = 5.0
    watts_idle: float = 3.0
    step_seconds: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        for name in ("flops", "memory_mb", "up", "down"):
            value = getattr(self, name)
            require(0 < value < math.inf, f"device.{name}", value, "above 0 and finite")
        for name in ("latency", "watts_compute", "watts_network", "watts_idle"):
            value = getattr(self, name)
            require(0 <= value < math.inf, f"device.{name}", value, "0 or more, and finite")
        for value in self.step_seconds:
            allowed = "each 0 or more, and finite"
            require(0 <= value < math.inf, "device.step_seconds", value, allowed)

    def compute_seconds(self, flops: float, *, steps: int = 0, blocks: int = 0) -> float:
        """Seconds that so much training takes.

        Args:
            flops: its floating-point operations.
            steps: its optimizer steps.
            blocks: blocks from the lowest that trains to the last.
        """
        if self.step_seconds:
            return steps * self.step_seconds[min(blocks, len(self.step_seconds) - 1)]
        return flops / self.flops

    def network_seconds(self, *, up: int, down: int) -> float:
        """Seconds that `down` bytes take to arrive and `up` bytes to be sent."""
        return self.latency + up / self.up + down / self.down

    def spent(self, cost: Cost, *, steps: int = 0, blocks: int = 0) -> Cost:
        """The cost of an update with the seconds and joules that it takes on such a device.

        Args:
            cost: its operations and bytes.
            steps: as in `compute_seconds`.
            blocks: as in `compute_seconds`.
        """
        compute = self.compute_seconds(cost.flops, steps=steps, blocks=blocks)
        network = self.network_seconds(up=cost.bytes_up, down=cost.bytes_down)
        timed = dataclasses.replace(
            cost,
            device_seconds=compute,
            network_seconds=network,
            modelled_seconds=compute + network,
        )
        return self.drawn(timed)

    def drawn(self, cost: Cost) -> Cost:
        """The cost of an update whose seconds were measured, with the joules that they take."""
        joules = self.watts_compute * cost.device_seconds
        joules += self.watts_network * cost.network_seconds
        return dataclasses.replace(cost, joules=joules, idle_watts=self.watts_idle)


def depth(trained: Layout, whole: Layout) -> int:
    """Blocks from the lowest that trains to the last one of `whole`, the head not counted."""
    blocks = [block for block in dict.fromkeys(spec.block for spec in whole) if block != "head"]
    lowest = {spec.block for spec in trained}
    places = [place for place, block in enumerate(blocks) if block in lowest]
    return len(blocks) - min(places, default=len(blocks))


def none() -> None:
    """No device: time and energy of simulated clients are not counted."""


def rpi4(**changes: object) -> Device:
    """Raspberry Pi 4, 4 GB: 1.9 times slower than a Pi 5 (Flower's example); 7 W is assumed."""
    return _changed("rpi4", Device(36.7e9 / 1.9, 4096, 5e6, 5e6, 0.05, 7.0, 4.0, 3.0), changes)


def rpi5(**changes: object) -> Device:
    """Raspberry Pi 5, 8 GB: 36.7 GFLOP/s at 12 W (Linpack, sbc-reviews); its network is assumed."""
    return _changed("rpi5", Device(36.7e9, 8192, 5e6, 5e6, 0.05, 12.0, 5.0, 3.5), changes)


def tx2(**changes: object) -> Device:
    """Jetson TX2: seconds of a BERT-base step by trained blocks, 1 MB/s (FedAdapter); 15 W assumed.

    The steps are those of FedAdapter's batches, lower activations cached; elsewhere give your own.
    """
    steps = (0.02, *(round(0.09 * blocks, 2) for blocks in range(1, 13)))
    return _changed("tx2", Device(100e9, 8192, 1e6, 1e6, 0.1, 15.0, 7.0, 5.0, steps), changes)


def orin(**changes: object) -> Device:
    """Jetson AGX Orin, 32 GB: all of it assumed (2 TFLOP/s reached, 40 W)."""
    return _changed("orin", Device(2e12, 32768, 10e6, 10e6, 0.05, 40.0, 15.0, 10.0), changes)


def phone(**changes: object) -> Device:
    """A phone on a mobile network: all of it assumed (20 GFLOP/s reached, 4 W, 1 MB/s up)."""
    return _changed("phone", Device(20e9, 3072, 1e6, 4e6, 0.1, 4.0, 2.0, 0.5), changes)


def laptop(**changes: object) -> Device:
    """A laptop without a GPU: all of it assumed (100 GFLOP/s reached, 30 W)."""
    return _changed("laptop", Device(100e9, 8192, 5e6, 10e6, 0.03, 30.0, 12.0, 8.0), changes)


def _changed(name: str, device: Device, changes: Mapping[str, object]) -> Device:
    """The device with some of its figures changed; a wrong name or type is a `ConfigError`."""
    return build(Device, {**dataclasses.asdict(device), **changes}, f"devices.{name}")
