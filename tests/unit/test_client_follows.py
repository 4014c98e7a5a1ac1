"""A device's model, from one task to the next."""

from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from small_jobs import labelled_rows

from fedloom.client.held import Coming, HeldModel
from fedloom.client.manifest import Manifest, Order
from fedloom.client.settings import ClientSettings
from fedloom.client.stopping import Stop
from fedloom.client.worker import Worker
from fedloom.client.workshop import Far, Workshop
from fedloom.codecs.dense import Float32
from fedloom.codecs.downlink import Downlink, Form
from fedloom.core.advance import Advance, Contribution, Move
from fedloom.core.errors import TransferError
from fedloom.core.job import job_from
from fedloom.core.layout import Layout, TensorSpec
from fedloom.core.step_ledger import advanced
from fedloom.core.steps import Directions
from fedloom.core.types import ClientTask, Delta, LocalWork, Params, Selectors, State
from fedloom.protos.federation_pb2 import Blob, Holding, Task
from fedloom.tuning.build import model_of
from fedloom.tuning.data import own_examples
from fedloom.tuning.reading import reading_of

CLASSES = ("field", "harbour", "treasury")
JOB = job_from(
    {
        "backbone": {"max_tokens": 32, "head_init": "normal"},
        "data": {"split": "split"},
        "adapter": {"name": "lora", "rank": 2},
        "codec_up": {"name": "scalars"},
    }
)
SHA = "a" * 64


@pytest.fixture
def worker(text_model: dict[str, Path], tmp_path: Path) -> Worker:
    folder, cpu = text_model["classify"], torch.device("cpu")
    config = replace(JOB.data, classes=CLASSES)
    rows = labelled_rows(30, clients=1)
    corpus = own_examples(rows, config, reading_of(JOB.backbone, folder))
    digest = model_of(JOB, folder, ("a", "b", "c"), dtype=torch.float32, device=cpu).layout.digest
    settings = ClientSettings(threads=1, device="cpu", cache_gb=0.0)
    held = HeldModel(tmp_path / "held", SHA)
    return Worker(Manifest("f", JOB, CLASSES, digest, ()), folder, corpus, settings, tmp_path, held)


def order() -> Order:
    return Order(ClientTask("c", 1, 0, LocalWork(batch_size=8), Selectors(), seed=0), 0)


class Server:
    """The states of a run, and what is sent of the newest."""

    def __init__(self, worker: Worker) -> None:
        self.state = State(worker._start)

    def play(self) -> None:
        layout = self.state.params.layout
        part = Contribution(5, 2, np.array([3000, -4000], dtype=np.int64))
        worth = (1e-5,) * len(layout.specs)
        move = Move(layout, worth, Directions(), self.state.version + 1, (part,))
        rest = Delta(Layout(()), np.zeros(0, dtype=np.float32))
        self.state = advanced(self.state, Advance((move,), rest), 0)

    def sends(self, held: int | None) -> tuple[bytes, Coming, Form]:
        layout = self.state.params.layout
        number = self.state.version
        model = Downlink(self.state, Float32(), layout, number=number, following=True)
        form = model.form(held)
        return form.payload.frame, Coming(form.base, form.keeps, model.digest), form


def params_of(worker: Worker, frame: bytes, coming: Coming) -> bytes:
    return worker._incoming.received(order(), frame, coming)[0].vector.tobytes()


def test_it_follows_from_the_start_and_keeps_what_it_made(worker: Worker) -> None:
    server = Server(worker)
    frame, coming, _ = server.sends(0)
    assert params_of(worker, frame, coming) == worker._start.vector.tobytes()
    assert worker.held is not None
    for held, version in ((0, 1), (1, 3), (3, 3), (3, 4)):  # it misses a round; asked twice
        while server.state.version < version:
            server.play()
        frame, coming, form = server.sends(held)
        assert form.base == held
        assert params_of(worker, frame, coming) == server.state.params.vector.tobytes()
        assert worker.held.version == server.state.version
    assert len(frame) < 80 < 4 * server.state.params.layout.size
    again = HeldModel(worker.held._folder, SHA)
    found = again.params(worker._start.layout)
    assert found is not None
    assert found.vector.tobytes() == server.state.params.vector.tobytes()


def test_a_task_trains_the_model_that_came_of_it(worker: Worker) -> None:
    server = Server(worker)
    server.play()
    frame, coming, _ = server.sends(0)
    whole, all_of_it, _ = server.sends(None)
    one = worker.train(order(), "t", frame, coming)[1]
    assert one == worker.train(order(), "u", whole, all_of_it)[1]
    assert worker.evaluate(order(), "v", frame, coming).num_examples == 5


def test_a_model_that_is_not_the_servers_is_asked_for_whole(worker: Worker) -> None:
    server = Server(worker)
    server.play()
    frame, coming, _ = server.sends(0)
    params_of(worker, frame, coming)
    held = worker.held
    assert held is not None
    assert held._params is not None
    held._params.vector[0] += 1  # whatever went wrong in memory
    server.play()
    frame, coming, _ = server.sends(1)
    with pytest.raises(TransferError, match="not the server's model; it is asked for all") as found:
        params_of(worker, frame, coming)
    assert found.value.code == "resync"
    assert (held.version, held.resync) == (0, True)
    frame, coming, _ = server.sends(None)
    assert params_of(worker, frame, coming) == server.state.params.vector.tobytes()
    assert (held.version, held.resync) == (2, False)


def test_a_version_that_is_not_here(worker: Worker) -> None:
    server = Server(worker)
    for _ in range(2):
        server.play()
    frame, coming, _ = server.sends(1)
    with pytest.raises(TransferError, match="version 1 of the model is not here"):
        params_of(worker, frame, coming)


def test_a_whole_model_that_differs_is_worked_with_and_not_kept(worker: Worker) -> None:
    server = Server(worker)
    server.play()
    frame, coming, _ = server.sends(None)
    other = replace(coming, digest=b"?" * 16)
    assert params_of(worker, frame, other) == server.state.params.vector.tobytes()
    assert worker.held is not None
    assert (worker.held.version, worker.held.resync) == (0, True)


def test_a_task_that_must_come_again_is_not_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = ClientSettings(data=str(tmp_path / "own.csv"))
    far = cast(Far, None)  # the model is not split
    workshop = Workshop(tmp_path / "state", settings, federation="f", stop=Stop(), far=far)

    def astray(*_: object) -> None:
        raise TransferError("another", code="resync")

    assert (workshop.holds, workshop.resync) == (None, False)
    workshop._held = HeldModel(tmp_path / "held", SHA)
    model = Params(Layout((TensorSpec("w", (2,)),)), np.ones(2, dtype=np.float32))
    workshop._held.keep(4, model)
    assert workshop.holds == Holding(version=4, digest=workshop._held.digest)
    workshop._at_hand.contents.path(SHA).write_bytes(b"abc")
    monkeypatch.setattr(workshop, "_made", astray)
    task = Task(ticket="t", attempt=1, model=Blob(sha256=SHA, size=3))
    for _ in range(5):  # more often than a task is begun
        assert workshop.work(task, lambda *_: iter(())) is None
        assert workshop.failure == ("", "")
