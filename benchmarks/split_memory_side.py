"""A device that trains a BERT-base, or some blocks of it, in a process of its own.

Usage: ``split_memory_side.py FOLDER [PORT]``: over the far side at PORT with the blocks that are in
FOLDER, or else with all of them. Prints one JSON line of its resident memory.
"""

import gc
import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from fedloom.backbones.checkpoint import read_config
from fedloom.backbones.portion import write_portion
from fedloom.backbones.shape import read_shape
from fedloom.client.channel import Channel
from fedloom.client.manifest import Manifest, Order
from fedloom.client.settings import ClientSettings
from fedloom.client.split_work import SplitWork, over_channel
from fedloom.client.worker import Worker
from fedloom.codecs.dense import Float32
from fedloom.codecs.exchange import sent_down
from fedloom.core.job import Job, job_from
from fedloom.core.layout import Layout
from fedloom.core.types import ClientTask, LocalWork, Selectors
from fedloom.tuning.build import model_of
from fedloom.tuning.cut import Cut, cut_of
from fedloom.tuning.data import Corpus
from fedloom.tuning.examples import TextExamples
from fedloom.tuning.fused_model import FusedModel
from memory import file_rss_mib, peak_rss_mib

__all__ = [
    "ABOVE",
    "BATCH",
    "BELOW",
    "NAME",
    "STEPS",
    "TOKENS",
    "WORK",
    "cut_in",
    "model_in",
    "write_home",
]

BATCH, TOKENS, STEPS = 16, 128, 4
BELOW, ABOVE = 2, 1
NAME = "0" * 64
CLASSES = ("a", "b")
CPU = torch.device("cpu")
WORK = LocalWork(steps=STEPS, batch_size=BATCH, lr=1e-3, optimizer="adamw")
TASK = ClientTask("device", 1, 0, WORK, Selectors(), seed=0)


def job(split: bool) -> Job:
    """LoRA of rank 8 on the queries and values of every block, and a classifier."""
    cut = {"mode": "v1", "bottom": BELOW, "top": ABOVE} if split else {"mode": "none"}
    backbone = {"pooling": "model", "max_tokens": TOKENS, "dtype": "float32"}
    adapter = {"name": "lora", "rank": 8}
    return job_from({"backbone": backbone, "adapter": adapter, "split": cut})


def cut_in(folder: Path) -> tuple[Cut, int]:
    """Where the model of a folder is cut, and its blocks."""
    depth = read_shape(read_config(folder)).depth
    return cut_of(job(split=True).split, depth), depth


def write_home(folder: Path, out: Path) -> Path:
    """Write what the device of ``home`` fetches."""
    cut, depth = cut_in(folder)
    return write_portion(folder, out, cut.home(depth))


def corpus() -> Corpus:
    """As many random sequences as all steps see."""
    draws = np.random.default_rng(3)
    count = BATCH * STEPS
    ids = draws.integers(1000, 30_000, count * TOKENS).astype(np.int32)
    offsets = np.arange(0, len(ids) + 1, TOKENS)
    examples = TextExamples(ids, offsets, labels=draws.integers(0, 2, count))
    none = examples.take(np.arange(0))
    return Corpus(examples, none, none, None, (), CLASSES)


def model_in(folder: Path, held: frozenset[str] | None, *, split: bool) -> FusedModel:
    """The model of the job, in this process."""
    found = model_of(job(split), folder, ("0", "1"), dtype=torch.float32, device=CPU, held=held)
    if not isinstance(found, FusedModel):
        raise TypeError(f"{folder}: no model of the fused engine")
    return found


def train(folder: Path, port: int) -> None:
    """Train a task as a device does, and print what was resident meanwhile, in MiB.

    Args:
        folder: the whole model, or what is at home of it.
        port: of the far side; 0 where there is none.
    """
    own, data = job(split=bool(port)), corpus()
    channel = Channel("127.0.0.1", port or 1, name="device")
    settings = ClientSettings(device="cpu", threads=1, cache_gb=0.0)
    gc.collect()
    base, libraries = peak_rss_mib(), file_rss_mib()
    with tempfile.TemporaryDirectory() as scratch:
        split = None
        if port:
            connect = over_channel(channel.split, time.sleep)
            split = SplitWork(own, NAME, folder, connect, Path(scratch))
        worker = _worker(folder, own, data, settings, Path(scratch), split)
        loaded = peak_rss_mib()
        params = worker._start
        part = params.layout
        if split is not None:
            held = split.held
            part = Layout(tuple(spec for spec in part if spec.block in held))
        frame = sent_down(params, Float32(), part, version=0).frame
        began = time.perf_counter()
        finished, _ = worker.train(Order(TASK, 0), "ticket", frame)
        seconds = time.perf_counter() - began
    channel.close()
    found = {"base_mib": base, "loaded_mib": loaded, "peak_mib": peak_rss_mib()}
    found["file_mib"] = file_rss_mib() - libraries
    loss = finished.metrics["loss"]
    print(json.dumps({**found, "seconds_a_step": seconds / STEPS, "loss": loss}))


def _worker(
    folder: Path,
    own: Job,
    data: Corpus,
    settings: ClientSettings,
    scratch: Path,
    split: SplitWork | None,
) -> Worker:
    digest = model_in(folder, frozenset(), split=split is not None).layout.digest
    manifest = Manifest("f", own, CLASSES, digest, ())
    return Worker(manifest, folder, data, settings, scratch, split=split)


def main() -> None:
    """Train on the side that the command line names."""
    train(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0)


if __name__ == "__main__":
    main()
