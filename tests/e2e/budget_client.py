"""A client's worker in a process of its own: trains, and tells what it held at most.

Usage: ``budget_client.py FOLDER MEMORY SCRATCH LENGTH [MB]``; prints one JSON line. With a last
argument the system refuses the process more data than so much beyond what it has before it trains.
"""

import json
import logging
import resource
import sys
from dataclasses import replace
from pathlib import Path

from fedloom.client.logs import log
from fedloom.client.manifest import Manifest, Order
from fedloom.client.settings import ClientSettings
from fedloom.client.worker import Worker
from fedloom.codecs.dense import Float32
from fedloom.codecs.exchange import sent_down
from fedloom.core.errors import ModelError
from fedloom.core.job import job_from
from fedloom.core.machine import peak_memory
from fedloom.core.types import ClientTask, LocalWork, Selectors
from fedloom.tuning.build import model_of
from fedloom.tuning.data import own_examples
from fedloom.tuning.reading import reading_of

CLASSES = ("a", "b")


class Kept(logging.Handler):
    """Lines of the log."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def limit(more: int) -> None:
    """Let the process have so many more bytes of data."""
    lines = Path("/proc/self/status").read_text().splitlines()
    has = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmData"))
    resource.setrlimit(resource.RLIMIT_DATA, (has + more, has + more))


def main() -> None:
    """Train twice; print the peak and the log."""
    import torch

    folder, memory, scratch = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
    length = int(sys.argv[4])
    handler = Kept()
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    table = {
        "backbone": {"max_tokens": length, "head_init": "normal"},
        "adapter": {"name": "lora", "rank": 4},
        "local": {"batch_size": 16},
    }
    job = job_from(table)
    words = ["harbour", "treasury", "field", "ship", "tax", "corn", "sail", "gold", "wheat"]
    rows = [
        {"text": " ".join(words[(i * 7 + j * j) % 9] for j in range(length)), "label": "ab"[i % 2]}
        for i in range(32)
    ]
    config = replace(job.data, classes=CLASSES)
    corpus = own_examples(rows, config, reading_of(job.backbone, folder))
    cpu = torch.device("cpu")
    digest = model_of(job, folder, CLASSES, dtype=torch.float32, device=cpu).layout.digest
    settings = ClientSettings(threads=1, device="cpu", cache_gb=1.0, memory=memory)
    worker = Worker(Manifest("f", job, CLASSES, digest, ()), folder, corpus, settings, scratch)
    start = worker._start
    if len(sys.argv) > 5:
        limit(int(sys.argv[5]) * 10**6)
    down = sent_down(start, Float32(), start.layout, version=0).frame
    error = ""
    try:
        for number in (1, 2):
            task = ClientTask("c", number, 0, LocalWork(batch_size=16), Selectors(), seed=0)
            worker.train(Order(task, 0), "t", down)
            worker.evaluate(Order(task, 0), "t", down)
    except ModelError as found:
        error = str(found)
    print(json.dumps({"peak": peak_memory(), "log": handler.lines, "error": error}))


if __name__ == "__main__":
    main()
