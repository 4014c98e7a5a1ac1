"""A server of the wire contract that misbehaves on request, and a line that breaks at any byte."""

import hashlib
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, NoReturn
from zlib import crc32

import grpc

from fedloom.protos import federation_pb2 as wire
from fedloom.protos import federation_pb2_grpc as stubs

Answer = Callable[[wire.CheckInRequest], wire.CheckInReply]


def sha(data: bytes | bytearray) -> str:
    return hashlib.sha256(data).hexdigest()


def blob(data: bytes) -> wire.Blob:
    return wire.Blob(sha256=sha(data), size=len(data))


def refuse(
    context: Any, code: str, text: str, *, retry_after: float | None = None, status: str = ""
) -> NoReturn:
    """End a call as the contract says that a refusal ends it."""
    trailers = [("fedloom-reason", code)]
    if retry_after is not None:
        trailers.append(("retry-after", str(retry_after)))
    context.set_trailing_metadata(trailers)
    context.abort(getattr(grpc.StatusCode, status or "FAILED_PRECONDITION"), text)
    raise AssertionError


@dataclass
class Misbehaving(stubs.FederationServicer):
    """Contents, uploads and answers, all in memory.

    Attributes:
        chunk: bytes of a chunk.
        cut_down: chunks after which each of the next downloads is cut.
        cut_up: chunks after which each of the next uploads is cut.
        spoil: what to do to a chunk on its way down, by the number of the chunk, once each.
        refusals: (code, retry_after) with which the next uploads are refused at their header.
        answers: of the next check-ins; the last one stays.
        down: payload bytes sent.
        up: payload bytes that came.
    """

    chunk: int = 256 * 1024
    contents: dict[str, bytes] = field(default_factory=dict)
    cut_down: deque[int] = field(default_factory=deque)
    cut_up: deque[int] = field(default_factory=deque)
    spoil: dict[int, Callable[[wire.Chunk], None]] = field(default_factory=dict)
    refusals: deque[tuple[str, float | None]] = field(default_factory=deque)
    answers: deque[Answer] = field(default_factory=deque)
    check_ins: list[wire.CheckInRequest] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    arrived: dict[str, bytearray] = field(default_factory=dict)
    results: dict[str, tuple[wire.UploadHeader, bytes]] = field(default_factory=dict)
    queries: int = 0
    down: int = 0
    up: int = 0
    _sent: int = 0

    def put(self, data: bytes) -> wire.Blob:
        """Offer a content."""
        self.contents[sha(data)] = data
        return blob(data)

    def CheckIn(self, request: wire.CheckInRequest, context: Any) -> wire.CheckInReply:  # noqa: N802
        self.check_ins.append(request)
        self.names.append(dict(context.invocation_metadata()).get("fedloom-client", ""))
        answer = self.answers.popleft() if len(self.answers) > 1 else self.answers[0]
        try:
            return answer(request)
        except Refused as error:
            refuse(context, error.code, str(error), retry_after=error.retry_after)

    def Download(self, request: wire.DownloadRequest, context: Any) -> Iterator[wire.Chunk]:  # noqa: N802
        data = self.contents.get(request.sha256)
        if data is None:
            refuse(context, "no-such-content", "no such content")
        left = self.cut_down.popleft() if self.cut_down else -1
        for offset in range(request.offset, len(data), self.chunk):
            if left == 0:
                context.abort(grpc.StatusCode.UNAVAILABLE, "cut")
            left -= 1
            part = data[offset : offset + self.chunk]
            chunk = wire.Chunk(offset=offset, crc32=crc32(part), data=part)
            if self._sent in self.spoil:
                self.spoil.pop(self._sent)(chunk)
            self._sent += 1
            self.down += len(part)
            yield chunk

    def QueryUpload(self, request: wire.QueryUploadRequest, context: Any) -> wire.UploadStatus:  # noqa: N802
        self.queries += 1
        if request.ticket in self.results:
            seq = list(self.results).index(request.ticket) + 1
            return wire.UploadStatus(receipt=wire.Receipt(seq=seq))
        return wire.UploadStatus(offset=len(self.arrived.get(request.ticket, b"")))

    def Upload(self, parts: Iterator[wire.UploadPart], context: Any) -> wire.Receipt:  # noqa: N802
        header = next(parts).header
        if self.refusals:
            code, wait = self.refusals.popleft()
            refuse(context, code, f"refused: {code}", retry_after=wait)
        have = self.arrived.setdefault(header.ticket, bytearray())
        if header.offset == 0:
            have.clear()
        left = self.cut_up.popleft() if self.cut_up else -1
        for part in parts:
            if left == 0:
                context.abort(grpc.StatusCode.UNAVAILABLE, "cut")
            left -= 1
            chunk = part.chunk
            if chunk.offset != len(have):
                refuse(context, "chunk-order", f"{chunk.offset} after {len(have)}")
            if crc32(chunk.data) != chunk.crc32:
                refuse(context, "chunk-crc", "damaged")
            have += chunk.data
            self.up += len(chunk.data)
        if len(have) < header.size:
            refuse(context, "too-short", "the upload ended early", retry_after=0.0)
        if sha(have) != header.sha256:
            have.clear()
            refuse(context, "digest", "another payload", retry_after=0.0)
        self.results[header.ticket] = (header, bytes(have))
        return wire.Receipt(seq=len(self.results))


class Refused(Exception):  # noqa: N818
    """What an `Answer` raises to refuse a check-in."""

    def __init__(self, code: str, text: str, retry_after: float | None = None) -> None:
        super().__init__(text)
        self.code, self.retry_after = code, retry_after


@contextmanager
def serving(servicer: Misbehaving, *, port: int = 0) -> Iterator[int]:
    """Serve without TLS on the loopback; the port."""
    with ThreadPoolExecutor(8) as pool:
        server = grpc.server(pool)
        stubs.add_FederationServicer_to_server(servicer, server)
        found = server.add_insecure_port(f"127.0.0.1:{port}")
        server.start()
        try:
            yield found
        finally:
            server.stop(grace=None).wait()


class BreakingLine:
    """A TCP relay to a port that hangs up after so many bytes of each next connection.

    Attributes:
        port: where it listens.
        budget: bytes, in both directions, after which each of the next connections breaks.
        carried: bytes carried, both directions.
    """

    def __init__(self, target: int, budget: list[int]) -> None:
        self.target, self.budget, self.carried = target, deque(budget), 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def close(self) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                self._relay(near)

    def _relay(self, near: socket.socket) -> None:
        """One connection at a time, as one client makes them."""
        far = socket.create_connection(("127.0.0.1", self.target))
        left = [self.budget.popleft() if self.budget else 1 << 60]

        def carry(source: socket.socket, target: socket.socket) -> None:
            with suppress(OSError):
                while data := source.recv(min(1 << 16, max(left[0], 1))):
                    left[0] -= len(data)
                    self.carried += len(data)
                    target.sendall(data)
                    if left[0] <= 0:
                        break
            for end in (source, target):
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

        back = threading.Thread(target=carry, args=(far, near), daemon=True)
        back.start()
        carry(near, far)
        back.join()
        near.close()
        far.close()
