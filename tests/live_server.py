"""A server in a process of its own, and devices that say whatever a test wants to them."""

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zlib import crc32

import grpc
import numpy as np
import pytest
from numpy.typing import NDArray
from waiting import until

from fedloom.codecs.dense import Float32
from fedloom.core.checkpoint import load_state
from fedloom.core.layout import Layout, TensorSpec
from fedloom.core.types import Delta
from fedloom.protos import federation_pb2 as pb
from fedloom.protos.federation_pb2_grpc import EnrolmentStub, FederationStub
from fedloom.security import certificates as certs
from fedloom.security.authority import Authority, KeyPair
from fedloom.security.request import make_request
from fedloom.security.tokens import JoinToken
from fedloom.server.database import Database
from fedloom.server.register import Register

ROOT = Path(__file__).parents[1]
SIZE = 8
LAYOUT = Layout((TensorSpec("w", (SIZE,), block="layer.0"),))
OPTIONS = (
    ("grpc.ssl_target_name_override", "fedloom-server"),
    ("grpc.enable_retries", 0),
    ("grpc.http2.bdp_probe", 0),  # so that a download waits for its reader
    ("grpc.http2.lookahead_bytes", 65_536),
)
SECONDS = 20.0
Floats = NDArray[np.float32]


@dataclass
class Refused(Exception):  # noqa: N818 (of the test's own)
    """How a call ended.

    Attributes:
        status: name of the gRPC status.
        code: of the trailer ``fedloom-reason``; empty where there is none.
        after: of the trailer ``retry-after``; None where there is none.
        text: the details.
    """

    status: str
    code: str
    after: float | None
    text: str


def answer(call: Callable[[], Any]) -> Any:
    """What a call gives; `Refused` is raised where it fails."""
    try:
        return call()
    except grpc.RpcError as error:
        failed: Any = error
        trailers = dict(failed.trailing_metadata() or ())
        after = trailers.get("retry-after")
        raise Refused(
            failed.code().name,
            trailers.get("fedloom-reason", ""),
            None if after is None else float(after),
            failed.details() or "",
        ) from None


def refusal(call: Callable[[], Any]) -> tuple[str, str]:
    """Status and code with which a call is refused."""
    with pytest.raises(Refused) as caught:
        answer(call)
    assert caught.value.text, "a refusal says why"
    return caught.value.status, caught.value.code


@dataclass
class Server:
    """A server that runs, or has ended."""

    folder: Path
    process: "subprocess.Popen[str]"
    facts: dict[str, Any]
    devices: list["Device"] = field(default_factory=list)

    @property
    def state(self) -> Path:
        return self.folder / "state"

    @property
    def authority(self) -> Authority:
        return Authority.open(self.state / "authority")

    @contextmanager
    def register(self) -> Iterator[Register]:
        """Tokens and clients, as a command beside the server has them."""
        database = Database.open(self.state, exclusive=False)
        try:
            yield Register(database)
        finally:
            database.close()

    def token(self, **options: Any) -> JoinToken:
        with self.register() as register:
            id, secret = register.tokens.create(**options)
        pin = self.authority.pin
        return JoinToken("127.0.0.1", self.facts["enrol_port"], id, secret, pin)

    def channel(self, port: int, pair: KeyPair | None, root: bytes = b"") -> Any:
        shown = (pair.key, pair.certificate) if pair else (None, None)
        tls = grpc.ssl_channel_credentials(root or self.authority.certificate, *shown)
        return grpc.secure_channel(f"127.0.0.1:{port}", tls, options=OPTIONS)

    def enrol(self, token: JoinToken, **changes: Any) -> pb.EnrolReply:
        """Enrol with a fresh key, or raise `Refused`."""
        key = changes.pop("key", None) or certs.new_key()
        fields = {
            "protocol": 1,
            "token_id": token.id,
            "secret": token.secret,
            "csr": make_request(key),
            **changes,
        }
        with self.channel(self.facts["enrol_port"], None) as channel:
            stub: Any = EnrolmentStub(channel)
            reply: pb.EnrolReply = answer(
                lambda: stub.Enrol(pb.EnrolRequest(**fields), timeout=SECONDS)
            )
            return reply

    def device(self, name: str) -> "Device":
        """A device under a name, enrolled where there is TLS."""
        if not self.facts["enrol_port"]:
            plain = grpc.insecure_channel(f"127.0.0.1:{self.facts['port']}")
            return self._keep(Device(name, plain, (("fedloom-client", name),)))
        key = certs.new_key()
        reply = self.enrol(JoinToken.parse(self.facts["token"]), name=name, key=key)
        pair = KeyPair(certs.key_to_pem(key), reply.certificate)
        return self._keep(Device(name, self.channel(self.facts["port"], pair), pair=pair))

    def _keep(self, device: "Device") -> "Device":
        self.devices.append(device)
        return device

    @property
    def model(self) -> Floats:
        """The last checkpoint's vector."""
        path = max((self.folder / "run" / "checkpoints").glob("round-*.safetensors"))
        return load_state(path, LAYOUT)[0].params.vector

    @property
    def lines(self) -> list[dict[str, Any]]:
        """``metrics.jsonl``, without the evaluation of the first model."""
        text = (self.folder / "run" / "metrics.jsonl").read_text()
        return [json.loads(line) for line in text.splitlines()][1:]

    def ended(self) -> dict[str, Any]:
        """How it says that it ended, once all its rounds are done and everybody has heard of it."""
        for device in self.devices:
            device.hears_the_end()
        out, err = self.process.communicate(timeout=SECONDS)
        assert self.process.returncode == 0, err
        assert "Traceback" not in err
        said: dict[str, Any] = json.loads(out.splitlines()[-1])
        return said

    def close(self) -> None:
        for device in self.devices:
            device.channel.close()
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(SECONDS)
            except subprocess.TimeoutExpired:
                self.process.kill()
        self.process.communicate()


@dataclass
class Device:
    """What a device is to the server: a name and a line."""

    name: str
    channel: Any
    metadata: tuple[tuple[str, str], ...] = ()
    pair: KeyPair | None = None

    @property
    def stub(self) -> Any:
        return FederationStub(self.channel)

    def check_in(self, seconds: float = 0.0, **fields: Any) -> pb.CheckInReply:
        values = {"protocol": 1, "num_examples": 3, "wait_seconds": seconds, **fields}
        request = pb.CheckInRequest(**values)
        call = self.stub.CheckIn
        reply: pb.CheckInReply = answer(
            lambda: call(request, metadata=self.metadata, timeout=SECONDS)
        )
        return reply

    def task(self, **fields: Any) -> pb.Task:
        """The next task, as soon as there is one."""
        until = time.monotonic() + SECONDS
        while time.monotonic() < until:
            reply = self.check_in(5.0, **fields)
            if reply.HasField("task"):
                return reply.task
            assert not reply.HasField("done"), reply.done.reason
        raise AssertionError(f"{self.name} got no task")

    def hears_the_end(self) -> None:
        """Check in until there is no more work."""
        what = f"the end of the work of {self.name}"
        until(lambda: self.check_in(5.0).HasField("done"), what, SECONDS)

    def upload(self, parts: Iterable[pb.UploadPart | bytes]) -> int:
        """Send messages; the receipt's number."""
        call = self.channel.stream_unary(
            "/fedloom.v1.Federation/Upload",
            request_serializer=lambda part: (
                part if isinstance(part, bytes) else part.SerializeToString()
            ),
            response_deserializer=pb.Receipt.FromString,
        )
        sent = iter(list(parts)) if isinstance(parts, list) else iter(parts)
        return int(answer(lambda: call(sent, metadata=self.metadata, timeout=SECONDS)).seq)

    def send(self, task: pb.Task, values: Iterable[float] | float = 1.0, weight: int = 3) -> int:
        """Send a correct update of these values."""
        return self.upload(parts_of(task, frame_of(values), num_examples=weight))

    def download(self, sha256: str, offset: int = 0) -> bytes:
        call = self.downloading(sha256, offset)
        return bytes(answer(lambda: b"".join(chunk.data for chunk in call)))

    def downloading(self, sha256: str, offset: int = 0) -> Iterator[pb.Chunk]:
        """A download under way."""
        request = pb.DownloadRequest(sha256=sha256, offset=offset)
        call: Iterator[pb.Chunk] = self.stub.Download(
            request, metadata=self.metadata, timeout=SECONDS
        )
        return call

    def query(self, ticket: str) -> pb.UploadStatus:
        request = pb.QueryUploadRequest(ticket=ticket)
        call = self.stub.QueryUpload
        status: pb.UploadStatus = answer(
            lambda: call(request, metadata=self.metadata, timeout=SECONDS)
        )
        return status

    def renew(self, csr: bytes) -> bytes:
        call = self.stub.Renew
        request = pb.RenewRequest(csr=csr)
        return bytes(answer(lambda: call(request, metadata=self.metadata)).certificate)


def frame_of(values: Iterable[float] | float, layout: Layout = LAYOUT) -> bytes:
    """The frame of a delta; one value stands for all elements."""
    vector = np.broadcast_to(np.asarray(values, dtype=np.float32), (layout.size,)).copy()
    return bytes(Float32().encode(Delta(layout, vector)).frame)


def header_of(task: pb.Task, frame: bytes, **changes: Any) -> pb.UploadPart:
    fields = {
        "ticket": task.ticket,
        "size": len(frame),
        "sha256": hashlib.sha256(frame).hexdigest(),
        "codec": "float32",
        "num_examples": 3,
        **changes,
    }
    return pb.UploadPart(header=pb.UploadHeader(**fields))


def chunk_of(data: bytes, offset: int = 0, **changes: Any) -> pb.UploadPart:
    return pb.UploadPart(
        chunk=pb.Chunk(**{"offset": offset, "crc32": crc32(data), "data": data, **changes})
    )


def parts_of(task: pb.Task, frame: bytes, **changes: Any) -> list[pb.UploadPart]:
    """The messages of an upload in chunks of 16 bytes."""
    chunks = [chunk_of(frame[at : at + 16], at) for at in range(0, len(frame), 16)]
    return [header_of(task, frame, **changes), *chunks]


def child_environment() -> dict[str, str]:
    path = os.pathsep.join(part for part in (str(ROOT), os.environ.get("PYTHONPATH", "")) if part)
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}


def start(folder: Path, settings: Mapping[str, Any]) -> "subprocess.Popen[str]":
    command = [sys.executable, str(ROOT / "tests" / "bare_server.py")]
    return subprocess.Popen(
        [*command, str(folder), json.dumps({"size": SIZE, **settings})],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=child_environment(),
    )


@contextmanager
def serving(folder: Path, *, tls: bool = False, **settings: Any) -> Iterator[Server]:
    """A server of a job without a model; the settings of ``[server]`` stand in ``server``."""
    server = {"insecure": not tls, "min_clients": 2, **settings.pop("server", {})}
    process = start(folder, {"rounds": 1, "clients_per_round": 2, **settings, "server": server})
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, process.communicate()[1]
    running = Server(folder, process, json.loads(line))
    try:
        yield running
    finally:
        running.close()
