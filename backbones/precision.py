"""Which type products should be done in on this machine."""

import time

import torch
from torch import Tensor

from fedloom.backbones.product import affine

__all__ = ["best_dtype"]

_ROWS, _WIDTH = 512, 512
_BUDGET = 0.02  # seconds for each type


def best_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where its products are faster than float32's, by a measurement of about 50 ms.

    Never assumed: without AMX, AVX512-BF16 or a GPU made for it, bfloat16 is several times slower.
    """
    if device.type == "cuda":
        return (
            torch.bfloat16
            if torch.cuda.is_bf16_supported(including_emulation=False)
            else torch.float32
        )
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as training runs: two that wait for each other time the scheduler
    try:
        exact, rough = (_seconds(device, dtype) for dtype in (torch.float32, torch.bfloat16))
    finally:
        torch.set_num_threads(threads)
    return torch.bfloat16 if rough < exact else torch.float32


def _seconds(device: torch.device, dtype: torch.dtype) -> float:
    """Seconds of the fastest of a few products."""
    x = torch.ones(_ROWS, _WIDTH, dtype=dtype, device=device)
    weight = torch.ones(_WIDTH, _WIDTH, dtype=dtype, device=device)
    fastest = _timed(x, weight)
    end = time.perf_counter() + _BUDGET
    while time.perf_counter() < end:
        fastest = min(fastest, _timed(x, weight))
    return fastest


def _timed(x: Tensor, weight: Tensor) -> float:
    start = time.thread_time()  # not wall time: a busy machine must not decide
    affine(x, weight)
    return time.thread_time() - start
