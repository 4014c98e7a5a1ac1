from dataclasses import dataclass, field
from typing import Any, cast

import pytest
import torch

from fedloom.core.errors import ConfigError, ModelError
from fedloom.core.layout import Layout, TensorSpec
from fedloom.tuning.base import CohortModel
from fedloom.tuning.capacity import (
    CPU_CHUNKS,
    CPU_CLIENTS,
    CPU_TOKENS,
    Capacity,
    choose_device,
    free_memory,
    measure_capacity,
)

CPU = torch.device("cpu")


@dataclass
class Sized:
    """A model of so many parameters; only what capacity asks for."""

    size: int = 1000
    bytes_per_token: int = 1000
    batched: bool = True
    layout: Layout = field(init=False)

    def __post_init__(self) -> None:
        self.layout = Layout((TensorSpec("w", (self.size,)),))


def capacity(model: Sized, *, workers: int = 1, memory_gb: float = 1.0) -> Capacity:
    given = cast(CohortModel, cast(Any, model))
    return measure_capacity(given, CPU, workers=workers, memory_gb=memory_gb)


def test_a_processor_is_full_with_a_few_clients() -> None:
    # A GiB less the row of one client, 20 bytes a number, holds so many tokens of 1000 bytes.
    most = (2**30 - 20 * Sized().size) // 1000
    assert capacity(Sized()) == Capacity(1, CPU_CLIENTS, CPU_TOKENS, CPU_CHUNKS, most)


def test_memory_is_shared_by_the_workers() -> None:
    # An eighth of a GiB, 134.2 MB: a client's row takes 5 * 4 * 5*10^5 bytes = 10 MB, a token 0.5.
    # One worker: 134.2 - 10 MB leave 248 tokens; a quarter of 134.2 MB holds 3 rows.
    # Two workers: 67.1 MB each: 114 tokens and 1 row.
    model = Sized(5 * 10**5, 5 * 10**5)
    found = [capacity(model, workers=n, memory_gb=0.125) for n in (1, 2)]
    assert [(c.workers, c.clients, c.tokens) for c in found] == [(1, 3, 248), (2, 1, 114)]


def test_activations_are_bounded_where_there_is_memory_for_more() -> None:
    assert capacity(Sized(1, 10**6)).tokens == 128 * 2**20 // 10**6
    assert capacity(Sized(1, 10**8), memory_gb=8.0).tokens == 64  # never less, if it fits


def test_one_client_at_a_time_where_there_is_no_batched_form() -> None:
    assert capacity(Sized(batched=False)).clients == 1


def test_a_single_row_that_is_larger_than_its_share() -> None:
    assert capacity(Sized(30 * 10**6, 10**5)).clients == 1


def test_what_does_not_fit() -> None:
    with pytest.raises(ModelError, match=r"MiB may be used; raise run.memory_gb"):
        capacity(Sized(10**6, 10**6), memory_gb=0.02)


def test_without_limits_half_of_what_is_free_is_taken() -> None:
    assert free_memory(CPU) > 2**20
    found = capacity(Sized(), workers=0, memory_gb=0.0)
    assert found.workers >= 1
    assert found.clients >= 1


def test_devices() -> None:
    assert choose_device("cpu") == CPU
    if not torch.cuda.is_available():
        assert choose_device("auto") == CPU
        with pytest.raises(ConfigError, match=r"run\.device = 'cuda': this machine has no CUDA"):
            choose_device("cuda")
