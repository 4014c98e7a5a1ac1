"""Memory that one local step takes beyond the loaded model, for one way of finding the step.

Usage: ``step_memory.py MODEL_FOLDER WAY DEVICE``; prints one JSON line. The step is one client's,
on 64 sequences of 32 tokens, with LoRA of rank 8 on the queries and values of every layer and a
classifier on the mean.
"""

import ctypes
import gc
import json
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from fedloom.core.component import Component
from fedloom.core.registry import create
from fedloom.core.types import LocalWork, Params
from fedloom.tuning.base import Session, Task
from fedloom.tuning.build import build_model
from fedloom.tuning.examples import TextExamples
from fedloom.tuning.learning import Assignment, Learner
from memory import peak_rss_mib

__all__ = ["WAYS"]

EXAMPLES, TOKENS = 64, 32
WAYS = {
    "inference": None,
    "finite-difference": Component("finite-difference", {"directions": 8, "at_once": 1}),
    "finite-difference, 8 at once": Component("finite-difference", {"directions": 8}),
    "forward-gradient": Component("forward-gradient", {"directions": 8}),
    "backprop": Component("backprop"),
}
"""What finds the step, by name; nothing for a plain forward pass."""

_MMAP_THRESHOLD = -3  # of mallopt, glibc's malloc.h


def examples() -> TextExamples:
    """Random sequences of two classes; the last is short, to warm up with."""
    draws = np.random.default_rng(3)
    lengths = np.array([TOKENS] * EXAMPLES + [2])
    offsets = np.concatenate(([0], np.cumsum(lengths)))
    tokens = draws.integers(1000, 20_000, int(offsets[-1])).astype(np.int32)
    return TextExamples(tokens, offsets, labels=draws.integers(0, 2, len(lengths)))


def step_of(way: str, session: Session, params: Params) -> Callable[[slice], object]:
    """One step on some of the examples."""
    chosen, every = WAYS[way], np.arange(EXAMPLES + 1)
    if chosen is None:

        def infer(rows: slice) -> object:
            with torch.no_grad():
                return session.losses(session.store(params, 1), [every[rows]]).loss.cpu()

        return infer
    learner: Learner = create("learners", chosen)  # type: ignore[assignment]
    work = LocalWork(steps=1, batch_size=EXAMPLES, lr=0.01)

    def train(rows: slice) -> object:
        return learner.train(session, params, work, [Assignment("a", every[rows], 1, 0)])

    return train


def from_here(device: str) -> Callable[[], float]:
    """Begin to count; what is returned gives the most MiB since, beyond what was held now."""
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated()
        return lambda: (torch.cuda.max_memory_allocated() - held) / 2**20
    Path("/proc/self/clear_refs").write_text("5")  # the peak is what is held now: man 5 proc
    resident = peak_rss_mib()
    return lambda: peak_rss_mib() - resident


def give_back_at_once() -> None:
    """Let every block of 64 KiB or more be mapped alone, so that a freed one is not counted."""
    if platform.libc_ver()[0] != "glibc":
        raise OSError("step_memory: resident memory is counted on Linux with glibc only")
    ctypes.CDLL(None).mallopt(_MMAP_THRESHOLD, 64 << 10)


def main() -> None:
    """Take one step, and print what it took."""
    folder, way, device = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
    if device == "cpu":
        give_back_at_once()
    torch.set_num_threads(1)
    adapter = Component("lora", {"rank": 8})
    task = Task("classify", 2, "mean")
    model = build_model(
        folder, adapter, task, dtype=torch.float32, device=torch.device(device), engine="fused"
    )
    params = model.initial(0)
    step = step_of(way, model.session(params, ("*",), examples()), params)
    step(slice(EXAMPLES, EXAMPLES + 1))  # sets up libraries and threads
    most = from_here(device)
    began = time.perf_counter()
    step(slice(0, EXAMPLES))
    print(json.dumps({"step_mib": most(), "seconds": time.perf_counter() - began}))


if __name__ == "__main__":
    main()
