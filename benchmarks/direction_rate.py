"""Directions a second of a cohort of 16 clients with 8 directions each: at once, or one by one.

Usage: ``direction_rate.py MODEL_FOLDER JSON``, with the fields of `Asked`; prints one JSON line.
Both ways are one local step of the same code, from batches to what is sent: one chunk of 16 clients
with all directions in one forward pass; or client by client, direction by direction. The frozen
layers below the adapter run once for each batch, the loss at the start once for each client, in
both. The check of the first batch is left out: one by one it would be made 16 times.
"""

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from fedloom.backbones.allocator import keep_large_blocks
from fedloom.core.component import Component
from fedloom.core.types import LocalWork, Params
from fedloom.tuning.base import Losses, Rows, Session, Task
from fedloom.tuning.build import build_model
from fedloom.tuning.examples import TextExamples
from fedloom.tuning.learners.differences import Differences
from fedloom.tuning.learners.finite_difference import FiniteDifference
from fedloom.tuning.learners.spot import Spot, Trials
from fedloom.tuning.learners.walk import Walk
from fedloom.tuning.learning import NOTHING, Assignment
from memory import peak_mib

__all__ = ["Asked"]

CLIENTS, DIRECTIONS = 16, 8


@dataclass(frozen=True)
class Asked:
    """What is measured.

    Attributes:
        together: all in one forward pass, or one by one.
        layers: that LoRA of rank 4 is attached to; empty for all.
        batch: sequences of each client.
        tokens: of each sequence.
        threads: of the products.
        device: ``cpu`` or ``cuda``.
        repeats: timed; the best counts.
    """

    together: bool
    layers: tuple[int, ...]
    batch: int = 8
    tokens: int = 32
    threads: int = 2
    device: str = "cpu"
    repeats: int = 3


@dataclass(frozen=True)
class Unchecked:
    """Slopes by differences, without a look at the first batch."""

    inner: Differences

    def at_once(self, tokens: int, device: torch.device) -> int:
        return self.inner.most

    @property
    def passes(self) -> int:
        return self.inner.passes

    def check(self, spot: Spot, rows: Rows) -> None:
        """Nothing."""

    def slopes(self, spot: Spot, trials: Trials, here: Losses) -> NDArray[np.float64]:
        return self.inner.slopes(spot, trials, here)


def step(
    session: Session, params: Params, asked: Asked, cohort: Sequence[Assignment], at_once: int
) -> None:
    """One local step of a chunk."""
    search = FiniteDifference(directions=DIRECTIONS).search
    gauge = Unchecked(Differences(False, 0.0, at_once))
    work = LocalWork(steps=1, batch_size=asked.batch, lr=0.01)
    walk = Walk(search, gauge, session, params, work, cohort, NOTHING)
    walk.take(0)
    walk.results(0.0)


def whole(session: Session, params: Params, asked: Asked) -> tuple[float, float]:
    """Seconds that the step of the whole cohort takes, and processor seconds."""
    count = asked.batch
    cohort = [
        Assignment(f"c{i}", np.arange(i * count, (i + 1) * count), 1, 0) for i in range(CLIENTS)
    ]
    began, busy = time.perf_counter(), time.process_time()
    if asked.together:
        step(session, params, asked, cohort, DIRECTIONS)
    else:
        for one in cohort:
            step(session, params, asked, [one], 1)
    return time.perf_counter() - began, time.process_time() - busy


def examples(asked: Asked) -> TextExamples:
    draws = np.random.default_rng(3)
    count = CLIENTS * asked.batch
    tokens = draws.integers(1000, 20_000, count * asked.tokens).astype(np.int32)
    offsets = np.arange(0, len(tokens) + 1, asked.tokens)
    return TextExamples(tokens, offsets, labels=draws.integers(0, 2, count))


def main() -> None:
    """Measure, and print the rate."""
    table = json.loads(sys.argv[2])
    asked = Asked(**{**table, "layers": tuple(table["layers"])})
    torch.set_num_threads(asked.threads)
    keep_large_blocks()
    model = build_model(
        Path(sys.argv[1]),
        Component("lora", {"rank": 4, "layers": asked.layers}),
        Task("classify", 2, "mean"),
        dtype=torch.float32,
        device=torch.device(asked.device),
        engine="fused",
    )
    params = model.initial(0)
    session = model.session(params, ("head", "B"), examples(asked))
    times = [whole(session, params, asked) for _ in range(asked.repeats + 1)]  # one to warm up
    wall, busy = (min(column) for column in zip(*times[1:], strict=True))
    found = {
        "directions_per_second": CLIENTS * DIRECTIONS / wall,
        "cpu_ms_per_direction": 1000 * busy / (CLIENTS * DIRECTIONS),
        "step_seconds": wall,
    }
    print(json.dumps({**found, "peak_memory_mib": peak_mib(asked.device)}))


if __name__ == "__main__":
    main()
