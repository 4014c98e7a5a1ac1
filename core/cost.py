"""What an update cost its client: bytes, operations, memory, time, energy."""

from dataclasses import dataclass

__all__ = ["Cost"]


@dataclass(frozen=True)
class Cost:
    """What an update cost, or several.

    Attributes:
        bytes_up: bytes sent by clients.
        bytes_down: bytes sent to clients.
        flops: floating-point operations, estimated from the shapes.
        peak_memory: most bytes held at once: estimated from the shapes in a simulation, measured
            on a device.
        seconds: measured seconds of the machine that computed it: the simulator's own, or the
            device's.
        joules: energy that the device model says.
        tokens: tokens trained on, once for each time that they were gone through.
        device_seconds: seconds that the client computes: as the device model says in a simulation,
            as measured on a device.
        network_seconds: seconds that its bytes take: as the device model says in a simulation, as
            measured between server and device.
        idle_watts: drawn by the client while it waits for the others; 0 once the round is over and
            the waiting is in `joules`.
        modelled_seconds: that it computes and communicates as the device model says, also where the
            two above are measured; 0 without a model.
    """

    bytes_up: int = 0
    bytes_down: int = 0
    flops: float = 0.0
    peak_memory: int = 0
    seconds: float = 0.0
    joules: float = 0.0
    tokens: int = 0
    device_seconds: float = 0.0
    network_seconds: float = 0.0
    idle_watts: float = 0.0
    modelled_seconds: float = 0.0

    @property
    def busy(self) -> float:
        """Seconds that the client computes and communicates."""
        return self.device_seconds + self.network_seconds

    def __add__(self, other: "Cost") -> "Cost":
        """Sum of two costs; peak memory is the larger of the two."""
        return Cost(
            self.bytes_up + other.bytes_up,
            self.bytes_down + other.bytes_down,
            self.flops + other.flops,
            max(self.peak_memory, other.peak_memory),
            self.seconds + other.seconds,
            self.joules + other.joules,
            self.tokens + other.tokens,
            self.device_seconds + other.device_seconds,
            self.network_seconds + other.network_seconds,
            self.idle_watts + other.idle_watts,
            self.modelled_seconds + other.modelled_seconds,
        )
