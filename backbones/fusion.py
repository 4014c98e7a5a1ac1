"""Elementwise steps as one kernel on a GPU, where each alone is bound by memory or launches."""

import functools
import importlib.util
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch

from fedloom.backbones.tangents import dual

__all__ = ["fused_on_gpu"]

P = ParamSpec("P")
T = TypeVar("T")


def fused_on_gpu(step: Callable[P, T]) -> Callable[P, T]:
    """Compile a step of tensors for CUDA, on first use; elsewhere it runs as it is written.

    On CPUs the compiled form brought nothing and takes long to make; where no compiler for the GPU
    is at hand, the step runs as it is written there too.
    """
    compiled: Callable[P, T] | None = None

    @functools.wraps(step)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        nonlocal compiled
        first = args[0]
        if not (isinstance(first, torch.Tensor) and first.is_cuda and _has_triton()) or dual(first):
            return step(*args, **kwargs)
        if compiled is None:
            compiled = torch.compile(step, dynamic=True)
        return compiled(*args, **kwargs)

    return run


@functools.cache
def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None
