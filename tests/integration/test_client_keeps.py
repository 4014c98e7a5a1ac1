"""What a device keeps for itself: over restarts, and on no wire."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from contract_server import Misbehaving, serving
from small_federation import CLASSES, TABLE, Federation
from small_jobs import labelled_rows, write_rows

from fedloom.client.settings import ClientSettings
from fedloom.client.start import take_part
from fedloom.codecs.dense import Float32
from fedloom.core.checkpoint import load_state
from fedloom.core.layout import Layout, Vector
from fedloom.core.types import Params, Payload
from fedloom.protos import federation_pb2 as wire
from fedloom.tuning.data import own_examples
from fedloom.tuning.learners.backprop import Backprop
from fedloom.tuning.learning import Assignment
from fedloom.tuning.reading import reading_of

LOCAL = {"lr": 0.1, "batch_size": 8}
JOB = {**TABLE, "stages": [{"name": "own", "rounds": 3, "keep": ["head"], "local": LOCAL}]}


class Listening:
    """A line to a server that writes down every byte that comes from the device."""

    def __init__(self, target: int) -> None:
        self._target, self.heard = target, bytearray()
        self._ends: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()
        for end in self._ends:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10)
        for end in self._ends:
            end.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(("127.0.0.1", self._target))
                for one, other, written in ((near, far, True), (far, near, False)):
                    self._ends.append(one)
                    told = (one, other, written)
                    self._threads.append(threading.Thread(target=self._carry, args=told))
                    self._threads[-1].start()

    def _carry(self, source: socket.socket, target: socket.socket, written: bool) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                if written:
                    self.heard += data
                target.sendall(data)
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


@contextmanager
def listening(server: Misbehaving) -> Iterator[Listening]:
    with serving(server) as port:
        line = Listening(port)
        try:
            yield line
        finally:
            line.close()


def expected(federation: Federation, data: Path) -> list[tuple[Vector, Params]]:
    """Three rounds from the same global model: what is sent of each, and what is kept."""
    job, params, layout = federation.job, federation.params, federation.model.layout
    reading = reading_of(job.backbone, federation.folder)
    examples = own_examples(str(data), replace(job.data, classes=CLASSES), reading).train
    kept, rest = layout.select(("head",)), layout.select(("lora",))
    own = Params(kept, layout.gather(params.vector, kept))
    found = []
    for number in (1, 2, 3):
        session = federation.model.session(params, ("*",), examples)
        rows = np.arange(len(examples))
        one = Assignment("device", rows, number, job.seed, own=own)
        (result,) = Backprop().train(session, params, job.stages[0].local, [one])
        assert result.kept is not None
        own = result.kept
        found.append((result.layout.gather(result.delta, rest), own))
    return found


def pieces(vector: Vector, size: int = 4) -> set[bytes]:
    """Every run of four numbers, as bytes."""
    data = np.ascontiguousarray(vector, dtype="<f4").tobytes()
    return {data[i : i + 4 * size] for i in range(0, len(data) - 4 * size + 1, 4)}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_rows(tmp_path / "own.jsonl", labelled_rows(60, clients=1))


def settings(tmp_path: Path, data: Path, port: int) -> ClientSettings:
    own = {"directory": str(tmp_path / "device"), "data": str(data), "name": "device"}
    given = ClientSettings(insecure=f"127.0.0.1:{port}", threads=1, cache_gb=0.0, wait=0.5)
    return replace(given, **own)  # type: ignore[arg-type]


def give(server: Misbehaving, federation: Federation, *tasks: wire.Task) -> None:
    job = federation.manifest
    server.answers.clear()  # the last answer stays
    server.answers.append(lambda _: wire.CheckInReply(job=job, wait=wire.Wait(seconds=0.01)))
    server.answers.extend(_giving(job, task) for task in tasks)
    done = wire.Done(reason="all rounds are done")
    server.answers.append(lambda _: wire.CheckInReply(job=job, done=done))


def _giving(job: wire.Blob, task: wire.Task) -> Callable[[wire.CheckInRequest], wire.CheckInReply]:
    return lambda _: wire.CheckInReply(job=job, task=task)


def sent(server: Misbehaving, ticket: str, layout: Layout) -> Vector:
    return Float32().decode(Payload("float32", server.results[ticket][1]), layout).vector


def test_a_kept_head_over_restarts_and_on_no_wire(
    text_model: dict[str, Path], data: Path, tmp_path: Path
) -> None:
    server = Misbehaving(chunk=64 * 1024)
    federation = Federation(text_model["classify"], server, JOB)
    layout = federation.model.layout
    kept, rest = layout.select(("head",)), layout.select(("lora",))
    rounds = expected(federation, data)
    with listening(server) as line:
        one, two = federation.task(1, 0, "a" * 32), federation.task(2, 0, "b" * 32)
        give(server, federation, one, two)
        assert take_part(settings(tmp_path, data, line.port)) == 0
        # The second round comes again, as from a server that lost it; then the third.
        again, three = federation.task(2, 0, "c" * 32), federation.task(3, 0, "d" * 32)
        judged = federation.task(3, 0, "e" * 32, kind="evaluate")
        give(server, federation, again, three, judged)
        assert take_part(settings(tmp_path, data, line.port)) == 0
        heard = bytes(line.heard)
    for ticket, number in (("a", 1), ("b", 2), ("c", 2), ("d", 3)):
        np.testing.assert_array_equal(sent(server, ticket * 32, rest), rounds[number - 1][0])
    (path,) = (tmp_path / "device").rglob("personal/*/round-000003.safetensors")
    np.testing.assert_array_equal(load_state(path, kept)[0].params.vector, rounds[2][1].vector)
    told = server.results["e" * 32][0].metrics
    assert {"accuracy", "personal_accuracy", "loss", "personal_loss"} <= set(told)
    assert told["personal_loss"] != told["loss"]  # which one is less, a few examples do not say

    update = pieces(rounds[0][0])
    assert sum(piece in heard for piece in update) > 0.9 * len(update)  # that is how it would look
    first = layout.gather(federation.params.vector, kept)
    heads = [first, *(own.vector for _, own in rounds)]
    changes = [after - before for before, after in pairwise(heads)]
    for vector in (*heads, *changes):
        assert not any(piece in heard for piece in pieces(vector) if any(piece))
    for name in kept.names:
        assert name.encode() not in heard
