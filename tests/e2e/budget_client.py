"""A client's worker in a process of its own: trains, and tells what it held at most.

Usage: ``budget_client.py ENGINE FOLDER MEMORY SCRATCH LENGTH [MB]``; prints one JSON line. With a
last argument the system refuses the process more data than so much beyond what it has before it
trains.
"""

import json
import logging
import resource
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from fedloom.client.engines import Working
from fedloom.client.held import Coming
from fedloom.client.logs import log
from fedloom.client.manifest import Manifest, Order
from fedloom.client.settings import ClientSettings
from fedloom.codecs.dense import Float32
from fedloom.codecs.exchange import sent_down
from fedloom.core.errors import ModelError
from fedloom.core.job import job_from
from fedloom.core.machine import peak_memory
from fedloom.core.types import ClientTask, LocalWork, Params, Selectors
from fedloom.tuning.data import Corpus, own_examples
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


def with_torch(
    manifest: Manifest, folder: Path, corpus: Corpus, settings: ClientSettings, scratch: Path
) -> tuple[Working, Params]:
    """The worker over torch, and the model before the first round."""
    import torch

    from fedloom.client.worker import Worker
    from fedloom.tuning.build import model_of

    cpu = torch.device("cpu")
    model = model_of(manifest.job, folder, CLASSES, dtype=torch.float32, device=cpu)
    own = replace(manifest, layout=model.layout.digest)
    worker = Worker(own, folder, corpus, settings, scratch)
    return worker, worker._start


def with_onnx(
    manifest: Manifest, folder: Path, corpus: Corpus, settings: ClientSettings, scratch: Path
) -> tuple[Working, Params]:
    """The worker over onnxruntime, and the model before the first round."""
    from fedloom.client.onnx_worker import OnnxWorker
    from fedloom.tuning.asking import task_of
    from fedloom.tuning.onnx.model import OnnxModel

    job = manifest.job
    model = OnnxModel(folder, job.adapter, task_of(job.backbone, folder, CLASSES))
    own = replace(manifest, layout=model.layout.digest)
    return OnnxWorker(own, folder, corpus, settings), model.initial(job.seed)


def main() -> None:
    """Train twice; print the peak and the log."""
    engine, folder, memory, scratch = sys.argv[1], Path(sys.argv[2]), sys.argv[3], Path(sys.argv[4])
    length = int(sys.argv[5])
    handler = Kept()
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    table: dict[str, Any] = {
        "backbone": {"max_tokens": length, "head_init": "normal"},
        "adapter": {"name": "lora", "rank": 4},
        "local": {"batch_size": 16},
    }
    if engine == "onnx":
        table |= {"learner": {"name": "finite-difference"}, "codec_up": {"name": "scalars"}}
    job = job_from(table)
    words = ["harbour", "treasury", "field", "ship", "tax", "corn", "sail", "gold", "wheat"]
    rows = [
        {"text": " ".join(words[(i * 7 + j * j) % 9] for j in range(length)), "label": "ab"[i % 2]}
        for i in range(32)
    ]
    config = replace(job.data, classes=CLASSES)
    corpus = own_examples(rows, config, reading_of(job.backbone, folder))
    settings = ClientSettings(threads=1, device="cpu", cache_gb=1.0, memory=memory, engine=engine)
    manifest = Manifest("f", job, CLASSES, "", ())
    work = with_onnx if engine == "onnx" else with_torch
    worker, start = work(manifest, folder, corpus, settings, scratch)
    if len(sys.argv) > 6:
        limit(int(sys.argv[6]) * 10**6)
    down = sent_down(start, Float32(), start.layout, version=0).frame
    error = ""
    try:
        for number in (1, 2):
            task = ClientTask("c", number, 0, LocalWork(batch_size=16), Selectors(), seed=0)
            worker.train(Order(task, 0), "t", down, Coming())
            worker.evaluate(Order(task, 0), "t", down, Coming())
    except ModelError as found:
        error = str(found)
    loaded = "torch" in sys.modules
    line = {"peak": peak_memory(), "log": handler.lines, "error": error, "torch": loaded}
    print(json.dumps(line))


if __name__ == "__main__":
    main()
