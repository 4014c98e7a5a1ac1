"""A light client: the calls of a device over its own TLS connection, without a device's work."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import grpc
from cryptography.hazmat.primitives import serialization as pem
from cryptography.hazmat.primitives.asymmetric import ec

from fedloom.core.contract import CLIENT_HEADER, MESSAGE, PROTOCOL, REASON, RETRY_AFTER
from fedloom.core.errors import TransferError
from fedloom.load_payload import Prepared
from fedloom.protos import federation_pb2 as wire
from fedloom.protos.federation_pb2_grpc import EnrolmentStub, FederationStub
from fedloom.security.request import make_request
from fedloom.security.tokens import JoinToken
from fedloom.server.wire import MAX_CHUNK

__all__ = ["Address", "Enrolled", "LightClient", "enrol", "enrolment_channel"]

_VERSION = "load"
_OPTIONS = (
    ("grpc.max_receive_message_length", MESSAGE),
    ("grpc.max_send_message_length", MESSAGE),
    ("grpc.keepalive_time_ms", 120_000),
    ("grpc.use_local_subchannel_pool", 1),  # a connection for each client, as devices have
    ("grpc.enable_retries", 0),
)
_NAME = ("grpc.ssl_target_name_override", "fedloom-server")
_SECONDS = 60.0
_SOON = 1.0
_PASSING = frozenset(
    (
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        # What the asyncio client makes of a refusal that comes while it is still sending: the
        # server's own status is lost then (grpc/grpc, issue 36066).
        grpc.StatusCode.INTERNAL,
    )
)


@dataclass(frozen=True)
class Address:
    """Where a server is, and the authority (PEM) that speaks for it; empty where it has no TLS."""

    host: str
    port: int
    authority: bytes = b""

    @property
    def target(self) -> str:
        """As gRPC reads it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


@dataclass(frozen=True)
class Enrolled:
    """A client that the server knows: where it works, and its key and certificate (PEM)."""

    name: str
    address: Address
    key: bytes = b""
    certificate: bytes = b""


def enrolment_channel(address: Address) -> Any:
    """A connection on which any number of clients may enrol."""
    tls = grpc.ssl_channel_credentials(address.authority)
    return grpc.aio.secure_channel(address.target, tls, options=(*_OPTIONS, _NAME))


async def enrol(channel: Any, token: JoinToken, name: str, authority: bytes) -> Enrolled:
    """Make a key and have it certified.

    Raises:
        TransferError: the server refuses.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    request = wire.EnrolRequest(
        protocol=PROTOCOL,
        version=_VERSION,
        token_id=token.id,
        secret=token.secret,
        name=name,
        csr=make_request(key),
    )
    reply = await _reply(EnrolmentStub(channel).Enrol(request, timeout=_SECONDS))
    form = (pem.Encoding.PEM, pem.PrivateFormat.PKCS8, pem.NoEncryption())
    address = Address(token.host, reply.port, authority)
    return Enrolled(reply.client, address, key.private_bytes(*form), reply.certificate)


class LightClient:
    """The calls of one client. Every one raises `TransferError` where the server refuses."""

    def __init__(self, who: Enrolled, *, num_examples: int) -> None:
        self.name = who.name
        self._num_examples = num_examples
        self._channel = _channel(who)
        # Where there are no certificates, a client is who it says it is.
        self._metadata = () if who.certificate else ((CLIENT_HEADER, quote(who.name)),)
        self._stub = FederationStub(self._channel)
        self._upload = self._channel.stream_unary(
            "/fedloom.v1.Federation/Upload",
            request_serializer=None,  # parts are serialized once for all clients
            response_deserializer=wire.Receipt.FromString,
        )

    async def check_in(self, wait: float) -> wire.CheckInReply:
        """Ask for work, for up to `wait` seconds."""
        request = wire.CheckInRequest(
            protocol=PROTOCOL,
            version=_VERSION,
            num_examples=self._num_examples,
            wait_seconds=wait,
        )
        call = self._stub.CheckIn(request, timeout=wait + _SECONDS, metadata=self._metadata)
        reply: wire.CheckInReply = await _reply(call)
        return reply

    async def download(self, sha256: str) -> bytes:
        """A content, whole."""
        request = wire.DownloadRequest(sha256=sha256)
        data = bytearray()
        try:
            async for chunk in self._stub.Download(request, metadata=self._metadata):
                data += chunk.data
        except grpc.aio.AioRpcError as error:
            raise _refusal(error) from None
        return bytes(data)

    async def arrived(self, ticket: str) -> wire.UploadStatus:
        """What the server has of an upload."""
        request = wire.QueryUploadRequest(ticket=ticket)
        call = self._stub.QueryUpload(request, timeout=_SECONDS, metadata=self._metadata)
        status: wire.UploadStatus = await _reply(call)
        return status

    async def send(self, ticket: str, payload: Prepared, *, offset: int = 0) -> int:
        """Upload a payload from an offset; its number in the server's ledger."""
        # A server that stopped inside a chunk gets all of them again.
        first, inside = divmod(offset, MAX_CHUNK)
        first = 0 if inside else first
        header = wire.UploadHeader(
            ticket=ticket,
            size=payload.size,
            sha256=payload.sha256,
            codec=payload.codec,
            num_examples=self._num_examples,
            metrics={"loss": 1.0},
            offset=first * MAX_CHUNK,
        )
        parts = (wire.UploadPart(header=header).SerializeToString(), *payload.parts[first:])
        call = self._upload(_each(parts), metadata=self._metadata)
        receipt = await _reply(call)
        return int(receipt.seq)

    async def close(self) -> None:
        """Hang up."""
        await self._channel.close()


def _channel(who: Enrolled) -> Any:
    if not who.certificate:
        return grpc.aio.insecure_channel(who.address.target, options=_OPTIONS)
    tls = grpc.ssl_channel_credentials(who.address.authority, who.key, who.certificate)
    return grpc.aio.secure_channel(who.address.target, tls, options=(*_OPTIONS, _NAME))


async def _each(parts: tuple[bytes, ...]) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


async def _reply(call: Any) -> Any:
    try:
        return await call
    except grpc.aio.AioRpcError as error:
        raise _refusal(error) from None


def _refusal(error: grpc.aio.AioRpcError) -> TransferError:
    """The refusal of a status: the server's own word for it, or else the status."""
    trailers = dict(error.trailing_metadata() or ())
    code = trailers.get(REASON) or error.code().name.lower()
    after = trailers.get(RETRY_AFTER)
    wait = float(after) if after else _SOON if error.code() in _PASSING else None
    return TransferError(error.details() or code, code=code, retry_after=wait)
