"""A client that trains over a stored backbone, in a process of its own.

Usage: ``client_memory_side.py FOLDER TASK BATCH TOKENS LEARNER``. What it runs is the device's own
worker, with the channel to a server that it has in a federation. Prints one JSON line of its
resident memory, and of the time from the start of the process to the end of its first step.
"""

import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from fedloom.client.channel import Channel
from fedloom.client.manifest import Manifest, Order
from fedloom.client.settings import ClientSettings
from fedloom.client.worker import Worker
from fedloom.codecs.dense import Float32
from fedloom.codecs.exchange import sent_down
from fedloom.core.job import Job, job_from
from fedloom.core.types import ClientTask, LocalWork, Selectors
from fedloom.tuning.build import model_of
from fedloom.tuning.data import Corpus
from fedloom.tuning.examples import TextExamples
from memory import file_rss_mib, peak_rss_mib

__all__ = ["main"]

STEPS = 4
FORWARDS = "finite-difference"
"""Trains B alone, along eight directions a step."""


def job(task: str, tokens: int, learner: str) -> Job:
    """LoRA of rank 8 on the queries and values of every block."""
    backbone = {"task": task, "max_tokens": tokens, "dtype": "float32"}
    if task == "classify":
        backbone["pooling"] = "mean"
    adapter = {"name": "lora", "rank": 8}
    table = {"backbone": backbone, "adapter": adapter, "learner": {"name": learner}}
    if learner == FORWARDS:
        table |= {"learner": {"name": learner, "directions": 8}, "codec_up": {"name": "scalars"}}
    return job_from(table)


def corpus(task: str, count: int, tokens: int) -> Corpus:
    """So many random sequences."""
    draws = np.random.default_rng(3)
    ids = draws.integers(1000, 30_000, count * tokens).astype(np.int32)
    offsets = np.arange(0, len(ids) + 1, tokens)
    labels = draws.integers(0, 2, count) if task == "classify" else None
    examples = TextExamples(ids, offsets, labels=labels)
    none = examples.take(np.arange(0))
    return Corpus(examples, none, none, None, (), classes(task))


def classes(task: str) -> tuple[str, ...]:
    """Of the labels."""
    return ("a", "b") if task == "classify" else ()


def since_start() -> float:
    """Seconds since this process was started, to a hundredth (man 5 proc, field 22)."""
    ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / 100


def main() -> None:
    """Train one step, then some more, and print what was resident at most, in MiB."""
    folder, task, learner = Path(sys.argv[1]), sys.argv[2], sys.argv[5]
    batch, tokens = (int(word) for word in sys.argv[3:5])
    own, data = job(task, tokens, learner), corpus(task, batch, tokens)
    channel = Channel("127.0.0.1", 1, name="device")
    base = peak_rss_mib()
    settings = ClientSettings(device="cpu", threads=1, cache_gb=0.0)
    cpu = torch.device("cpu")
    hollow = model_of(own, folder, classes(task), dtype=torch.float32, device=cpu, held=frozenset())
    manifest = Manifest("f", own, classes(task), hollow.layout.digest, ())
    with tempfile.TemporaryDirectory() as scratch:
        worker = Worker(manifest, folder, data, settings, Path(scratch))
        loaded = peak_rss_mib()
        params = worker._start
        frame = sent_down(params, Float32(), params.layout, version=0).frame

        def train(steps: int) -> float:
            optimizer = "sgd" if learner == FORWARDS else "adamw"
            work = LocalWork(steps=steps, batch_size=batch, lr=1e-3, optimizer=optimizer)
            selectors = Selectors(train=("B",)) if learner == FORWARDS else Selectors()
            order = Order(ClientTask("device", 1, 0, work, selectors, seed=0), 0)
            finished, _ = worker.train(order, "ticket", frame)
            return float(finished.metrics["loss"])

        train(1)
        first, began, before = since_start(), time.perf_counter(), time.process_time()
        loss = train(STEPS)
        wall, cpu_seconds = time.perf_counter() - began, time.process_time() - before
    channel.close()
    found = {"base_mib": base, "loaded_mib": loaded, "peak_mib": peak_rss_mib(), "loss": loss}
    found |= {"file_mib": file_rss_mib(), "first_step_s": first, "step_s": wall / STEPS}
    found["per_second"] = 1 / first
    print(json.dumps({**found, "step_cpu_s": cpu_seconds / STEPS}))


if __name__ == "__main__":
    main()
