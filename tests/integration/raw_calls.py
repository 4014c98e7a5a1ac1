"""A gRPC call by hand, over a TLS of one's choice: RFC 9113 (HTTP/2) and RFC 7541 (its headers)."""

import socket
import ssl
from pathlib import Path

from fedloom.security.authority import KeyPair

_DATA, _HEADERS, _SETTINGS, _GOAWAY = 0, 1, 4, 7
_END_STREAM, _END_HEADERS = 1, 4


def tls_context(version: ssl.TLSVersion, pair: KeyPair, folder: Path) -> ssl.SSLContext:
    """A client that speaks one version and shows a certificate, and trusts whoever answers."""
    (folder / "pair.pem").write_bytes(pair.key + pair.certificate)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = context.maximum_version = version
    context.set_alpn_protocols(["h2"])
    context.load_cert_chain(folder / "pair.pem")
    return context


def call(port: int, method: str, context: ssl.SSLContext) -> str | None:
    """Call a method with an empty message; return the version of TLS once it is answered."""
    with (
        socket.create_connection(("127.0.0.1", port), 10) as plain,
        context.wrap_socket(plain) as secured,
    ):
        secured.sendall(
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
            + _frame(_SETTINGS, 0, 0, b"")
            + _frame(_HEADERS, _END_HEADERS, 1, _request(method))
            + _frame(_DATA, _END_STREAM, 1, bytes(5))
        )
        with secured.makefile("rb") as file:
            while (head := file.read(9)) and head[3] not in (_HEADERS, _GOAWAY):
                file.read(int.from_bytes(head[:3], "big"))
        return secured.version()


def _frame(kind: int, flags: int, stream: int, body: bytes) -> bytes:
    return len(body).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + body


def _request(method: str) -> bytes:
    """The headers of a call: indices of the static table, and literals that are not indexed."""
    return (
        b"\x83\x87"  # :method POST, :scheme https
        + (b"\x04" + _text(method))  # :path
        + (b"\x01" + _text("fedloom-server"))  # :authority
        + (b"\x0f\x10" + _text("application/grpc"))  # content-type, index 31 = 15 + 16
        + (b"\x00" + _text("te") + _text("trailers"))
    )


def _text(text: str) -> bytes:
    return bytes([len(text)]) + text.encode()
