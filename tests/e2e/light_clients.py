"""Devices without a model: threads that hand in noise drawn from (client, round), and misbehave.

In every round one of them gives up, one sends a damaged update before the good one, one
cuts its upload and goes on, and all send again what they have a receipt for. Whatever contradicts
what the server said before is kept in `Crowd.wrong`.
"""

import hashlib
import json
import threading
import time
import traceback
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import grpc
import numpy as np

from fedloom.codecs.dense import Float32
from fedloom.core.layout import Layout, TensorSpec
from fedloom.core.types import Delta
from fedloom.protos import federation_pb2 as pb
from fedloom.protos.federation_pb2_grpc import FederationStub

__all__ = ["Crowd", "frame_of"]

CHUNK = 1 << 18
OVER = ("round-over", "ticket-unknown")
LATER = ("busy", "disk-full", "too-short", "chunk-order")


def frame_of(client: int, round: int, size: int) -> bytes:
    """What a client hands in for a round."""
    layout = Layout((TensorSpec("w", (size,), block="layer.0"),))
    vector = np.random.default_rng([client, round]).standard_normal(size, dtype=np.float32)
    return Float32().encode(Delta(layout, vector * np.float32(0.01))).frame


@dataclass(frozen=True)
class Sending:
    """A result on its way."""

    ticket: str
    round: int
    frame: bytes
    examples: int
    good: bool = True

    def parts(self, offset: int = 0, end: int | None = None) -> Iterator[pb.UploadPart]:
        """The messages from an offset on, up to `end`."""
        yield pb.UploadPart(
            header=pb.UploadHeader(
                ticket=self.ticket,
                size=len(self.frame),
                sha256=hashlib.sha256(self.frame).hexdigest(),
                codec="float32",
                num_examples=self.examples,
                metrics={"loss": 1.0},
                offset=offset,
            )
        )
        stop = len(self.frame) if end is None else end
        step = min(CHUNK, max(1, stop // 2))
        for at in range(offset, stop, step):
            data = self.frame[at : min(at + step, stop)]
            yield pb.UploadPart(chunk=pb.Chunk(offset=at, crc32=zlib.crc32(data), data=data))


@dataclass(eq=False)
class Crowd:
    """Clients of one federation, over all the processes that serve it.

    Attributes:
        clients: how many.
        size: numbers in the model.
        receipts: (round, client) to the number that the server gave.
        models: address of the model of each round.
        wrong: what should not have happened.
    """

    clients: int
    size: int
    receipts: dict[tuple[int, str], int] = field(default_factory=dict)
    models: dict[int, str] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    _state: threading.Condition = field(default_factory=threading.Condition)
    _process: int = 0
    _channel: Any = None
    _closed: bool = False
    _threads: list[threading.Thread] = field(default_factory=list)

    def __enter__(self) -> "Crowd":
        for number in range(self.clients):
            thread = threading.Thread(target=_Client(self, number).run, daemon=True)
            self._threads.append(thread)
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._state:
            self._closed = True
            self._state.notify_all()
        self._hang_up()
        for thread in self._threads:
            thread.join(10)
        assert not any(thread.is_alive() for thread in self._threads)

    def connect(self, port: int) -> None:
        """There is another process to talk to."""
        options = (("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0))
        channel = grpc.insecure_channel(f"127.0.0.1:{port}", options)
        self._hang_up()
        with self._state:
            self._channel, self._process = channel, self._process + 1
            self._state.notify_all()

    def after(self, process: int) -> tuple[int, FederationStub] | None:
        """The server after that process, once there is one; None when it is over."""
        with self._state:
            self._state.wait_for(lambda: self._closed or self._process > process)
            return None if self._closed else (self._process, FederationStub(self._channel))

    def receipt(self, sending: Sending, client: str, seq: int) -> None:
        """A client has been told a number."""
        with self._state:
            if not sending.good:
                self.wrong.append(f"{client}: a bad update of round {sending.round} was taken")
            before = self.receipts.setdefault((sending.round, client), seq)
            if before != seq:
                text = f"{client}, round {sending.round}: receipt {before}, then {seq}"
                self.wrong.append(text)

    def offered(self, round: int, client: str, model: str) -> None:
        """A client is asked to train."""
        with self._state:
            if (round, client) in self.receipts:
                self.wrong.append(f"{client} is asked again for round {round}, which it has sent")
            if self.models.setdefault(round, model) != model:
                self.wrong.append(f"round {round} begins from another model than before")

    def _hang_up(self) -> None:
        if self._channel is not None:
            self._channel.close()


class _Client:
    def __init__(self, crowd: Crowd, number: int) -> None:
        self._crowd, self._number, self._name = crowd, number, f"c{number}"
        self._metadata = (("fedloom-client", self._name),)
        self._stub: Any = None
        self._pending: Sending | None = None
        self._failed = ""
        self._cut: set[int] = set()

    def run(self) -> None:
        """Work for one process after the other."""
        process = 0
        while (found := self._crowd.after(process)) is not None:
            process, self._stub = found
            try:
                while self._turn():
                    pass
            except grpc.RpcError as error:
                if error.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED):
                    self._crowd.wrong.append(f"{self._name}: {error.code()}: {error.details()}")
            except ValueError:
                pass  # the channel was closed before the call began
            except Exception:
                self._crowd.wrong.append(traceback.format_exc())

    def _turn(self) -> bool:
        """One turn; False once there is no more work."""
        if self._pending is not None:
            self._go_on(self._pending)
            return True
        request = pb.CheckInRequest(
            protocol=1, num_examples=self._number + 1, wait_seconds=20, failed=self._failed
        )
        reply = self._call(self._stub.CheckIn, request)
        self._failed = ""
        if reply.HasField("task"):
            self._work(reply.task)
        return not reply.HasField("done")

    def _work(self, task: pb.Task) -> None:
        round = json.loads(task.order)["task"]["round"]
        if task.kind == "evaluate":
            evaluation = Sending(task.ticket, round, b"", 3)
            self._refused(evaluation, lambda: self._send(evaluation.parts()))
            return
        self._crowd.offered(round, self._name, task.model.sha256)
        self._check_model(task.model)
        role = (self._number - round) % self._crowd.clients
        if role == 0:
            self._failed = task.ticket
            return
        bad = role == 1 and task.attempt == 1
        frame = frame_of(self._number, round, self._crowd.size)
        frame = frame[:-1] + bytes([frame[-1] ^ 1]) if bad else frame
        sending = Sending(task.ticket, round, frame, self._number + 1, good=not bad)
        self._pending = sending
        cut = role == 2 and round not in self._cut
        self._cut.add(round)
        if self._refused(sending, lambda: self._upload(sending, cut=cut)) == "too-short":
            self._go_on(sending)

    def _upload(self, sending: Sending, *, cut: bool) -> None:
        end = len(sending.frame) // 2 if cut else None
        seq = self._send(sending.parts(end=end))
        self._crowd.receipt(sending, self._name, seq)
        self._crowd.receipt(sending, self._name, self._send(sending.parts()))  # once more
        self._pending = None

    def _go_on(self, sending: Sending) -> None:
        def rest() -> None:
            request = pb.QueryUploadRequest(ticket=sending.ticket)
            status = self._call(self._stub.QueryUpload, request)
            seq = status.receipt.seq
            if not status.HasField("receipt"):
                seq = self._send(sending.parts(status.offset))
            self._crowd.receipt(sending, self._name, seq)
            self._pending = None

        self._refused(sending, rest)

    def _refused(self, sending: Sending, attempt: Any) -> str:
        """Run an attempt; the code by which the server refused it, or nothing."""
        try:
            attempt()
        except grpc.RpcError as error:
            code = dict(error.trailing_metadata() or ()).get("fedloom-reason", "")
            if code in LATER:
                time.sleep(0.02)
            elif code in OVER or (code == "codec" and not sending.good):
                self._pending = None
            else:
                raise
            return str(code)
        return ""

    def _check_model(self, model: pb.Blob) -> None:
        chunks = self._stub.Download(
            pb.DownloadRequest(sha256=model.sha256), metadata=self._metadata, timeout=30
        )
        try:
            data = b"".join(chunk.data for chunk in chunks)
        except grpc.RpcError as error:
            if error.code() != grpc.StatusCode.NOT_FOUND:  # the round may be over by now
                raise
            return
        if hashlib.sha256(data).hexdigest() != model.sha256:
            self._crowd.wrong.append(f"{self._name}: another model than was announced")

    def _send(self, parts: Iterator[pb.UploadPart]) -> int:
        return int(self._call(self._stub.Upload, parts).seq)

    def _call(self, method: Any, request: Any) -> Any:
        return method(request, metadata=self._metadata, timeout=30)
