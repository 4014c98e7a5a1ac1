"""The calls to the server: the only file of a device that knows gRPC.

Whatever goes wrong in a call is raised as a `TransferError` or an `IdentityError` with the
server's code and text.
"""

import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast
from urllib.parse import quote

import grpc

from fedloom.client.refusals import failure
from fedloom.client.watch import Watch
from fedloom.core.contract import CLIENT_HEADER, MESSAGE, PROTOCOL, REASON
from fedloom.core.errors import FedloomError, TransferError
from fedloom.protos import federation_pb2 as wire
from fedloom.protos import split_pb2 as split
from fedloom.protos.federation_pb2_grpc import EnrolmentStub, FederationStub
from fedloom.protos.split_pb2_grpc import SplitStub

__all__ = ["Channel", "Credentials", "enrol"]

_OPTIONS = (
    ("grpc.max_send_message_length", MESSAGE),
    ("grpc.max_receive_message_length", MESSAGE),
    # Between what keeps a mobile network's address translation alive and the server's least.
    ("grpc.keepalive_time_ms", 120_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.keepalive_permit_without_calls", 1),  # training takes longer than a network remembers
    ("grpc.http2.max_pings_without_data", 0),
    # What is sent and not yet read is lost with the connection: a cut is to cost little. 256 KiB in
    # a round trip of 100 ms are still 21 Mbit/s.
    ("grpc.http2.bdp_probe", 0),
    ("grpc.http2.lookahead_bytes", 256 * 1024),
    # How often to try is for the caller to say.
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 5_000),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.enable_retries", 0),
    # A channel with a new certificate must not go on over an old one's connection.
    ("grpc.use_local_subchannel_pool", 1),
)
_NAME = ("grpc.ssl_target_name_override", "fedloom-server")
_SESSION = "/fedloom.split.v1.Split/Session"
_SECONDS = 30.0
"""That an answer may take which the server does not hold back."""
_SHORT = 5.0
"""That one may take of many servers, each of which will do."""


@dataclass(frozen=True)
class Credentials:
    """What a device proves itself with, and whom it trusts; all PEM.

    Attributes:
        authority: certificate of the federation's authority.
        key: the device's private key; empty before it has enrolled.
        certificate: the device's; empty before it has enrolled.
    """

    authority: bytes
    key: bytes = field(default=b"", repr=False)
    certificate: bytes = b""


class Channel:
    """The Federation service, as one device calls it. Threads may share it.

    Args:
        host: of the server.
        port: of the service.
        credentials: of the device; None for a server without TLS.
        name: of the device, where there are no credentials to say it.
        idle: seconds without a byte after which a transfer is given up.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        credentials: Credentials | None = None,
        name: str = "",
        idle: float = 60.0,
    ) -> None:
        self.server = _target(host, port)
        self._idle = idle
        self._metadata = ((CLIENT_HEADER, quote(name)),) if credentials is None else ()
        self._channel = _open(self.server, credentials)
        self._stub = cast(Any, FederationStub)(self._channel)
        self._split = cast(Any, SplitStub)(self._channel)
        self._session = self._channel.stream_stream(_SESSION)
        self._lock = threading.Lock()
        self._running: set[grpc.Future] = set()
        self._abandoned = False

    def check_in(self, request: wire.CheckInRequest) -> wire.CheckInReply:
        """Ask for work; the server may hold its answer back for ``request.wait_seconds``."""
        timeout = request.wait_seconds + _SECONDS
        return cast(wire.CheckInReply, self._unary(self._stub.CheckIn, request, timeout))

    def renew(self, csr: bytes) -> bytes:
        """A new certificate (PEM) for a certificate request (DER)."""
        reply = self._unary(self._stub.Renew, wire.RenewRequest(csr=csr), _SECONDS)
        return cast(bytes, reply.certificate)

    def query_upload(self, ticket: str) -> wire.UploadStatus:
        """What has arrived of an upload that was cut."""
        request = wire.QueryUploadRequest(ticket=ticket)
        return cast(wire.UploadStatus, self._unary(self._stub.QueryUpload, request, _SECONDS))

    def download(self, sha256: str, offset: int) -> Generator[wire.Chunk, None, None]:
        """The chunks of a content from an offset on."""
        request = wire.DownloadRequest(sha256=sha256, offset=offset)
        with self._failing():
            call = self._stub.Download(request, metadata=self._metadata)
            with self._tracked(call), Watch(call.cancel, self._idle) as watch:
                for chunk in call:
                    watch.moved()
                    yield chunk

    def upload(self, parts: Iterator[wire.UploadPart]) -> int:
        """Send a header and chunks; the number of the update in the server's ledger."""
        with Watch(None, self._idle) as watch:
            future = self._stub.Upload.future(watch.over(parts), metadata=self._metadata)
            watch.cancel = future.cancel
            with self._failing(), self._tracked(future):
                return int(future.result().seq)

    def describe(self) -> split.Description:
        """What a stage of frozen blocks serves; it does not wait for long."""
        request = split.DescribeRequest(protocol=PROTOCOL)
        return cast(split.Description, self._unary(self._split.Describe, request, _SHORT))

    def split(
        self, parts: Iterator[bytes], begun: Callable[[Callable[[], object]], object]
    ) -> Generator[bytes, None, None]:
        """What comes down a stream of split learning while `parts` go up.

        Messages are `Down` and `Up` of split.proto as bytes: their bodies are too large to be
        copied into objects and out of them.

        Args:
            parts: what goes up.
            begun: given what ends the call, from any thread. Silence is no failure here: how long
                to wait is for the caller to say.
        """
        with self._failing():
            call = self._session(parts, metadata=self._metadata)
            begun(call.cancel)
            with self._tracked(call):
                yield from call

    def exchange(self, method: str, parts: Sequence[bytes]) -> Generator[bytes, None, None]:
        """Send bytes to a call of another service of this server; the bytes that it answers.

        Args:
            method: ``/service/call``.
            parts: what is sent, each part a message.
        """
        with self._failing():
            call = self._channel.stream_stream(method)(iter(parts), metadata=self._metadata)
            with self._tracked(call), Watch(call.cancel, self._idle) as watch:
                for part in call:
                    watch.moved()
                    yield part

    def abandon(self) -> None:
        """End every call, now and from now on. May be called from any thread."""
        with self._lock:
            self._abandoned = True
            running = list(self._running)
        for call in running:
            call.cancel()

    def close(self) -> None:
        """End every call and the connection."""
        self.abandon()
        self._channel.close()

    def _unary(self, method: Any, request: object, timeout: float) -> Any:
        future = method.future(request, timeout=timeout, metadata=self._metadata)
        with self._failing(), self._tracked(future):
            return future.result()

    @contextmanager
    def _tracked(self, call: Any) -> Iterator[Any]:
        """A call that `abandon` ends; after that none begins."""
        with self._lock:
            self._running.add(call)
            abandoned = self._abandoned
        try:
            if abandoned:
                raise self._cancelled()
            yield call
        finally:
            with self._lock:
                self._running.discard(call)
            call.cancel()  # nothing to a call that has ended

    @contextmanager
    def _failing(self) -> Iterator[None]:
        """Calls in here fail with our errors."""
        try:
            yield
        except grpc.FutureCancelledError:
            raise self._cancelled() from None
        except grpc.RpcError as error:
            if cast(Any, error).code() is grpc.StatusCode.CANCELLED and not _reason(error):
                raise self._cancelled() from None
            raise _ours(self.server, error) from None

    def _cancelled(self) -> TransferError:
        if self._abandoned:
            return TransferError("the call was given up: this device stops", code="abandoned")
        text = f"no answer from {self.server}: nothing moved for {self._idle:.0f} s, or it was cut"
        return TransferError(text, code="unreachable", retry_after=0.0)


def enrol(host: str, port: int, authority: bytes, request: wire.EnrolRequest) -> wire.EnrolReply:
    """Call the Enrolment service.

    Args:
        host: of the server.
        port: of enrolment.
        authority: certificate of the federation's authority, PEM, checked by its pin before.
        request: what is asked.

    Raises:
        IdentityError: the server does not take the token, the name or the key.
        TransferError: it cannot be reached, or is of another version.
    """
    server = _target(host, port)
    channel = _open(server, Credentials(authority))
    try:
        return cast(
            wire.EnrolReply,
            cast(Any, EnrolmentStub)(channel).Enrol(request, timeout=_SECONDS),
        )
    except grpc.RpcError as error:
        raise _ours(server, error) from None
    finally:
        channel.close()


def _open(target: str, credentials: Credentials | None) -> grpc.Channel:
    if credentials is None:
        return grpc.insecure_channel(target, options=_OPTIONS)
    pair = (credentials.key or None, credentials.certificate or None)
    tls = grpc.ssl_channel_credentials(credentials.authority, *pair)
    return grpc.secure_channel(target, tls, options=(*_OPTIONS, _NAME))


def _target(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _trailers(error: grpc.RpcError) -> dict[str, str]:
    found: Sequence[tuple[str, str | bytes]] = cast(Any, error).trailing_metadata() or ()
    return {key: value for key, value in found if isinstance(value, str)}


def _reason(error: grpc.RpcError) -> str:
    return _trailers(error).get(REASON, "")


def _ours(server: str, error: grpc.RpcError) -> FedloomError:
    status = cast(Any, error)
    return failure(server, status.code().name, status.details() or "", _trailers(error))
