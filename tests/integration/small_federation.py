"""A small job with its manifest and tasks, as a server would hand them to devices."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from contract_server import Misbehaving, sha

from fedloom.codecs.dense import Float32
from fedloom.codecs.exchange import changed, sent_down
from fedloom.core.config import to_table
from fedloom.core.job import job_from
from fedloom.core.types import ClientTask, Delta
from fedloom.protos import federation_pb2 as wire
from fedloom.tuning.base import CohortModel
from fedloom.tuning.build import model_of
from fedloom.tuning.data import own_examples
from fedloom.tuning.learners.backprop import Backprop
from fedloom.tuning.learning import Assignment
from fedloom.tuning.reading import reading_of

CLASSES = ("field", "harbour", "treasury")
TABLE: dict[str, Any] = {
    "name": "small",
    "seed": 5,
    "backbone": {"name": "minilm", "max_tokens": 32, "head_init": "normal"},
    "data": {"client": "client", "split": "split"},
    "adapter": {"name": "lora", "rank": 4},
    "stages": [
        {"name": "head", "rounds": 1, "train": ["head"], "local": {"lr": 0.2, "batch_size": 8}},
        {"name": "all", "rounds": 2, "local": {"lr": 0.1, "batch_size": 8}},
    ],
}


class Federation:
    """A job, its model, and the tasks that a server would give."""

    def __init__(
        self, backbone: Path, server: Misbehaving, table: dict[str, Any] | None = None
    ) -> None:
        self.server, self.folder, self.table = server, backbone, table or TABLE
        self.job = job_from(self.table)
        self.model: CohortModel = model_of(
            self.job, backbone, CLASSES, dtype=torch.float32, device=torch.device("cpu")
        )
        self.params = self.model.initial(self.job.seed)
        self.manifest = self._manifest()

    def _manifest(self, **changes: Any) -> wire.Blob:
        files = [path for path in sorted(self.folder.iterdir()) if path.is_file()]
        for path in files:
            self.server.put(path.read_bytes())
        entries = [
            {"name": p.name, "sha256": sha(p.read_bytes()), "size": p.stat().st_size} for p in files
        ]
        table = {
            "protocol": 1,
            "federation": "7f1c0d8e-7c4c-4b0e-9d0a-0c7f3f3e2f11",
            "job": self.table,
            "classes": list(CLASSES),
            "layout": self.model.layout.digest,
            "backbone": {"files": entries},
            **changes,
        }
        return self.server.put(json.dumps(table).encode())

    def task(self, number: int, stage: int, ticket: str, *, kind: str = "train") -> wire.Task:
        part = changed([s.selectors for s in self.job.stages[: stage + 1]], self.model.layout)
        frame = sent_down(self.params, Float32(), part, version=0).frame
        order = {"task": to_table(self.order(number, stage)), "stage": stage}
        return wire.Task(
            ticket=ticket,
            attempt=1,
            kind=kind,
            order=json.dumps(order),
            model=self.server.put(frame),
            max_bytes=10**9,
        )

    def order(self, number: int, stage: int) -> ClientTask:
        wanted = self.job.stages[stage]
        return ClientTask(
            "device",
            number,
            number - 1,
            wanted.local,
            wanted.selectors,
            seed=self.job.seed,
        )

    def expected(self, data: Path, number: int, stage: int) -> bytes:
        """The frame that training here, without any wire, gives."""
        reading = reading_of(self.job.backbone, self.folder)
        corpus = own_examples(str(data), replace(self.job.data, classes=CLASSES), reading)
        task = self.order(number, stage)
        session = self.model.session(self.params, task.selectors.train, corpus.train)
        rows = np.arange(len(corpus.train))
        one = [Assignment("device", rows, number, task.seed)]
        (result,) = Backprop().train(session, self.params, task.work, one)
        return Float32().encode(Delta(result.layout, result.delta)).frame
