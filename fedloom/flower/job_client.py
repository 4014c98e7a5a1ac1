"""A job of fedloom as a ClientApp: a task in a message becomes a result in its reply.

Flower's deployment runtime starts a process for every message, which loads the backbone again;
where a process lives longer (a simulation), it stays loaded from message to message.
"""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from flwr.clientapp import ClientApp

from fedloom.client.enrol import default_root
from fedloom.client.manifest import Manifest, read_manifest, read_order
from fedloom.client.settings import ClientSettings
from fedloom.client.worker import Worker
from fedloom.core.errors import ConfigError
from fedloom.core.job import Job, job_from
from fedloom.core.registry import create
from fedloom.flower.job_messages import answered, said, work_of
from fedloom.simulation.partition import Rule, TrainingRows
from fedloom.tuning.data import Corpus, load_examples, own_examples
from fedloom.tuning.prepare import folder_of
from fedloom.tuning.reading import reading_of

__all__ = ["client_app"]

_WARM = 16
"""Workers that a process keeps."""


def client_app(table: Mapping[str, Any]) -> Any:
    """The ClientApp of a job.

    A node's examples are the file that its ``node_config`` names as ``data``; without one, those
    of the client number ``partition-id`` of the job's own partition.

    Args:
        table: the job, as TOML gives it.
    """
    job, warm = job_from(table), OrderedDict[str, Worker]()
    app = ClientApp()

    @app.query()  # type: ignore[untyped-decorator, unused-ignore]
    def query(message: Any, context: Any) -> Any:
        manifest = _manifest(message, job)
        name, corpus = _holdings(job, manifest, context.node_config)
        return said(message, {"client": name}, {"num-examples": len(corpus.train)})

    @app.train()  # type: ignore[untyped-decorator, unused-ignore]
    def train(message: Any, context: Any) -> Any:
        asked = work_of(message)
        manifest = _manifest(message, job)
        order = read_order(asked["order"], manifest)
        worker = warm.pop(order.task.client, None)
        if worker is None or worker.manifest != manifest:
            worker = _worker(job, manifest, context.node_config)
        warm[order.task.client] = worker
        while len(warm) > _WARM:
            warm.popitem(last=False)
        return answered(message, *worker.train(order, "", asked["model"]))

    return app


def _manifest(message: Any, job: Job) -> Manifest:
    """The job as the server says it, but for where this node's data are."""
    return read_manifest(work_of(message)["manifest"])


def _worker(job: Job, manifest: Manifest, node: Mapping[str, Any]) -> Worker:
    name, corpus = _holdings(job, manifest, node)
    settings = ClientSettings(
        threads=int(node.get("threads", 0)),
        device=str(node.get("device", "auto")),
        cache_gb=float(node.get("cache-gb", 0.0)),
    )
    root = Path(str(node.get("directory", default_root() / "flower"))).expanduser()
    scratch = root / manifest.job.name.replace("/", "-") / name.replace("/", "-")
    scratch.mkdir(parents=True, exist_ok=True)
    return Worker(manifest, _folder(manifest.job), corpus, settings, scratch)


def _folder(job: Job) -> Path:
    return folder_of(job.backbone, torch.device("cpu"), lambda text: None)


def _holdings(job: Job, manifest: Manifest, node: Mapping[str, Any]) -> tuple[str, Corpus]:
    """The name of a node's client, and its examples."""
    place = int(node.get("partition-id", -1))
    reading = reading_of(job.backbone, _folder(job))
    config = replace(job.data, classes=manifest.classes)
    if "data" in node:
        found = own_examples(str(node["data"]), config, reading, seed=job.seed)
        return str(node.get("client", f"node-{max(place, 0):04d}")), found
    corpus = load_examples(config, reading, seed=job.seed)
    rule = cast(Rule, create("partitions", job.partition))
    partition = rule(TrainingRows.of(corpus), job.seed)
    if not 0 <= place < len(partition):
        text = f"0 to {len(partition) - 1}, a client of the job's partition; or node_config data"
        raise ConfigError(f"node_config partition-id = {place}: {text}")
    rows = partition.rows_of(place)
    return partition.name_of(place), replace(corpus, train=corpus.train.take(rows))
