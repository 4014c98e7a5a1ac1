"""What a job says of the machine that it runs on."""

from dataclasses import dataclass

from fedloom.core.errors import require

__all__ = ["RunConfig"]


@dataclass(frozen=True)
class RunConfig:
    """How the run uses this machine: it changes results by the order of float additions at most.

    Attributes:
        directory: where results go; ``{name}`` and ``{seed}`` are filled in.
        device: ``cpu``, ``cuda``, or ``auto``.
        workers: cohort chunks trained side by side, one thread each (0: one per core).
        memory_gb: memory that training may take (0: half of what is free at the start).
        clients_at_once: at most so many clients are trained in one batch (0: what memory holds).
        cache_gb: memory for frozen activations (0: none).
        cache_disk_gb: disk for frozen activations that memory does not hold.
        checkpoint_every: rounds between checkpoints.
        keep: checkpoints kept.
        references: also train the references: ``central`` (all data in one place), ``local``
            (each client alone).
    """

    directory: str = "runs/{name}"
    device: str = "auto"
    workers: int = 0
    memory_gb: float = 0.0
    clients_at_once: int = 0
    cache_gb: float = 1.0
    cache_disk_gb: float = 4.0
    checkpoint_every: int = 1
    keep: int = 2
    references: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        device = self.device
        require(device in ("auto", "cpu", "cuda"), "run.device", device, "auto, cpu or cuda")
        for name in ("workers", "memory_gb", "clients_at_once", "cache_gb", "cache_disk_gb"):
            value = getattr(self, name)
            require(value >= 0, f"run.{name}", value, "0 or more")
        for name in ("checkpoint_every", "keep"):
            value = getattr(self, name)
            require(value >= 1, f"run.{name}", value, "1 or more")
        for reference in self.references:
            text = "one of central, local"
            require(reference in ("central", "local"), "run.references", reference, text)
