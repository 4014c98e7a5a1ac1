"""Ports: who may speak on them, and within which bounds."""

import os
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias
from urllib.parse import unquote

import grpc

from fedloom.core.contract import CLIENT_HEADER, MESSAGE
from fedloom.core.errors import IdentityError, RunError
from fedloom.core.types import ClientId
from fedloom.security.authority import Authority, KeyPair
from fedloom.security.names import check_name
from fedloom.security.peer import peer_of
from fedloom.server.register import Register

__all__ = ["Anyone", "Certified", "bind", "byte_calls", "new_server", "own_names"]

_WAITING = 100_000

_OPTIONS = (
    ("grpc.max_receive_message_length", MESSAGE),
    ("grpc.max_send_message_length", MESSAGE),
    ("grpc.keepalive_time_ms", 120_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 30_000),
    ("grpc.http2.max_ping_strikes", 5),
    ("grpc.max_connection_age_ms", 3_600_000),
    ("grpc.max_connection_age_grace_ms", 120_000),
    ("grpc.max_concurrent_streams", 64),
    # Calls that wait to be taken up. Of more than 1,000, gRPC cuts some at random and says nothing.
    ("grpc.server.max_pending_requests", _WAITING),
    ("grpc.server.max_pending_requests_hard_limit", _WAITING),
    ("grpc.so_reuseport", 0),
    # Windows that grow let whole bodies pile up beside the bound on arriving uploads.
    ("grpc.http2.bdp_probe", 0),
)

Context: TypeAlias = Any
"""``grpc.aio.ServicerContext``, which has no types."""
Streaming: TypeAlias = Callable[[AsyncIterator[bytes], Context], AsyncIterator[bytes]]
"""A call: what comes, and what is answered."""


@dataclass(frozen=True, eq=False)
class Certified:
    """Lets in who shows a certificate of this federation that still counts."""

    federation: str
    register: Register

    def __call__(self, context: Context) -> ClientId:
        """Who makes a call.

        Raises:
            IdentityError: nobody who is let in.
        """
        peer = peer_of(context.auth_context(), self.federation)
        self.register.let_in(peer.client, peer.issued.timestamp(), peer.serial)
        return peer.client


@dataclass(frozen=True)
class Anyone:
    """Lets in whoever says a name: what a federation without TLS comes to."""

    def __call__(self, context: Context) -> ClientId:
        """Who a caller says they are.

        Raises:
            IdentityError: they do not say.
        """
        for key, value in context.invocation_metadata() or ():
            if key == CLIENT_HEADER:
                return check_name(unquote(value))
        text = f"no name: a client without TLS gives the metadata {CLIENT_HEADER!r}"
        raise IdentityError(text, code="not-enrolled")


def new_server() -> Any:
    """A server with our bounds, without handlers or ports."""
    return grpc.aio.server(options=_OPTIONS)


def byte_calls(service: str, calls: Mapping[str, Streaming]) -> Any:
    """A service whose calls take a stream of bytes and answer another, as a handler for a server.

    Args:
        service: its full name.
        calls: by name.
    """
    handlers = {name: grpc.stream_stream_rpc_method_handler(call) for name, call in calls.items()}
    return grpc.method_handlers_generic_handler(service, handlers)


def bind(
    server: Any, host: str, port: int, keys: KeyPair | None, authority: Authority | None = None
) -> int:
    """Listen; the port.

    Args:
        server: of `new_server`.
        host: address to listen on.
        port: 0 for any free one.
        keys: the server's; None for no TLS.
        authority: whose certificates clients must show; None for none.

    Raises:
        RunError: the port is taken, or the address is not this machine's.
    """
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    _check_free(host, port)
    try:
        if keys is None:
            return int(server.add_insecure_port(address))
        credentials = grpc.ssl_server_credentials(
            [(keys.key, keys.certificate)],
            root_certificates=authority.certificate if authority else None,
            require_client_auth=authority is not None,
        )
        return int(server.add_secure_port(address, credentials))
    except RuntimeError as error:
        raise RunError(f"{address}: cannot listen: {error}") from None


def _check_free(host: str, port: int) -> None:
    """What the operating system says of a port is clearer than what gRPC makes of it."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            text = f"{host}:{port}: cannot listen: {error.strerror}"
            hint = "set server.listen, server.port, server.enrol_port, or end who uses it"
            raise RunError(f"{text}; {hint}") from None


def own_names(address: str) -> tuple[str, tuple[str, ...]]:
    """The address that clients dial, and every name that the server's certificate carries.

    Args:
        address: as configured; empty for the address that this machine is reached by.
    """
    host = socket.gethostname()
    dialled = address or _outward() or host
    names = dict.fromkeys((dialled, host, f"{host}.local"))
    return dialled, tuple(name for name in names if _plain(name))


def _outward() -> str:
    """The address of the interface that leads out; nothing is sent to find it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # an address for documentation, RFC 5737
            return str(probe.getsockname()[0])
        except OSError:
            return ""


def _plain(name: str) -> bool:
    return bool(name) and all(c.isalnum() or c in ".-:" for c in name) and os.sep not in name
