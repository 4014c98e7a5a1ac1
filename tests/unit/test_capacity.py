from types import SimpleNamespace
from typing import cast

import pytest
import torch

from fedloom.core.errors import ModelError
from fedloom.tuning.base import CohortModel
from fedloom.tuning.capacity import measure_capacity

CPU = torch.device("cpu")


def model(*, bytes_per_token: int, size: int = 1000, batched: bool = True) -> CohortModel:
    layout = SimpleNamespace(size=size)
    made = SimpleNamespace(layout=layout, batched=batched, bytes_per_token=bytes_per_token)
    return cast(CohortModel, made)


def test_activations_of_a_step_are_bounded_on_a_processor() -> None:
    # 256 MiB of activations hold 4096 tokens of 64 KiB each, whatever more memory there is
    found = measure_capacity(model(bytes_per_token=65_536), CPU, workers=2, memory_gb=64)
    assert (found.workers, found.tokens) == (2, 4096)


def test_small_models_take_many_small_clients() -> None:
    found = measure_capacity(model(bytes_per_token=1000), CPU, workers=1, memory_gb=8)
    assert (found.clients, found.tokens) == (256, 16_384)


def test_memory_bounds_the_tokens() -> None:
    # half of 1 GiB for each of two workers: (2^29 - 5 * 4 * 1000) / 2^20 = 511.98
    found = measure_capacity(model(bytes_per_token=2**20), CPU, workers=2, memory_gb=1)
    assert found.tokens == min(511, 256)


def test_memory_bounds_the_clients() -> None:
    # a quarter of 1 GiB for rows of 5 * 4 * 2^20 bytes: 2^28 / (20 * 2^20) = 12.8
    found = measure_capacity(model(bytes_per_token=1000, size=2**20), CPU, workers=1, memory_gb=1)
    assert found.clients == 12


def test_a_model_that_is_not_batched_trains_one_client_at_a_time() -> None:
    one = model(bytes_per_token=1000, batched=False)
    assert measure_capacity(one, CPU, workers=1, memory_gb=1).clients == 1


def test_a_cohort_is_split_for_the_workers_of_a_processor() -> None:
    assert measure_capacity(model(bytes_per_token=1000), CPU, workers=1, memory_gb=1).chunks == 4


def test_too_little_memory_says_how_much_is_needed() -> None:
    # 64 tokens of 64 MiB are 4 GiB
    with pytest.raises(ModelError, match=r"4\.00 GiB .* 1\.00 may be used"):
        measure_capacity(model(bytes_per_token=2**26), CPU, workers=1, memory_gb=1)
