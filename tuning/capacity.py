"""What this machine can hold and how it is best used."""

from dataclasses import dataclass

import torch

from fedloom.core import machine
from fedloom.core.errors import ConfigError, ModelError
from fedloom.tuning.base import CohortModel

__all__ = ["Capacity", "choose_device", "free_memory", "measure_capacity"]

CPU_CLIENTS, CPU_TOKENS, CPU_ACTIVATIONS = 256, 16_384, 128 * 2**20
"""Most clients, tokens and bytes of activations in a chunk's step on a processor.

Its products are at their peak with some thousand rows: beyond that, more only takes memory. Small
models and small clients need more of them for the same work between two calls of Python."""

CPU_CHUNKS = 4
"""Chunks that a cohort is at least split into on a processor, so that as many workers have
something to do. It is a constant and not the number of workers, because chunks decide float
association and a run must not depend on how many workers it had."""


@dataclass(frozen=True)
class Capacity:
    """How much is trained at once.

    Attributes:
        workers: chunks trained side by side.
        clients: clients in a chunk at most.
        tokens: tokens in a chunk's step at most.
        chunks: chunks that a cohort is split into at least, where it can be.
        most: tokens that memory holds, whether or not so many at once are of use (0: any); a client
            whose batch has more runs it in parts.
    """

    workers: int
    clients: int
    tokens: int
    chunks: int = CPU_CHUNKS
    most: int = 0


def choose_device(name: str) -> torch.device:
    """``cpu``, ``cuda`` or ``auto`` as a device.

    Raises:
        ConfigError: ``cuda`` is asked for and there is none.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("run.device = 'cuda': this machine has no CUDA device; use 'auto'")
    use_cuda = name == "cuda" or (name == "auto" and torch.cuda.is_available())
    return torch.device("cuda" if use_cuda else "cpu")


def free_memory(device: torch.device) -> int:
    """Bytes that are free on a device."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return machine.free_memory()


def measure_capacity(
    model: CohortModel, device: torch.device, *, workers: int, memory_gb: float
) -> Capacity:
    """Decide how much is trained at once.

    Args:
        model: what is trained.
        device: where.
        workers: asked for, or 0 for one per core (one on a GPU).
        memory_gb: memory that training may take, or 0 for half of what is free.

    Raises:
        ModelError: not even a single client's short batch fits.
    """
    budget = int(memory_gb * 2**30) or free_memory(device) // 2
    cpu = device.type == "cpu"
    side = (workers or machine.cores()) if cpu else 1
    row = 5 * 4 * model.layout.size  # values, gradient, two moments, delta
    per_worker = budget // side
    tokens = (per_worker - row) // max(model.bytes_per_token, 1)
    if tokens < 64:
        need = (row + 64 * model.bytes_per_token) * side / 2**20
        text = f"one client's smallest batch needs {need:.1f} MiB"
        allowed = f"{budget / 2**20:.1f} MiB may be used; raise run.memory_gb or lower run.workers"
        raise ModelError(f"the model does not fit in memory: {text}, {allowed}")
    clients, most = max(per_worker // 4 // max(row, 1), 1), tokens
    if cpu:
        busy = CPU_ACTIVATIONS // max(model.bytes_per_token, 1)
        clients, tokens = min(clients, CPU_CLIENTS), min(tokens, CPU_TOKENS, max(busy, 64))
    chunks = CPU_CHUNKS if cpu else 1
    return Capacity(side, clients if model.batched else 1, tokens, chunks, most)
