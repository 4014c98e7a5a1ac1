"""Real servers with a federation's certificates: who gets in, and who does not."""

import asyncio
import os
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from raw_calls import call, tls_context
from tls_server import METHOD, REASON, serve, serve_async

from fedloom.core.errors import IdentityError, TransferError
from fedloom.security import certificates as certs
from fedloom.security.authority import Authority, KeyPair
from fedloom.security.pinning import fetch_authority
from fedloom.security.request import make_request

NAME = "Foo Bar <foo@x.org>"
OPTIONS = [("grpc.ssl_target_name_override", "fedloom-server")]
DAY = timedelta(days=1)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.open(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.open(tmp_path_factory.mktemp("stranger"))


@pytest.fixture(scope="module")
def port(authority: Authority) -> Iterator[int]:
    with serve(authority, []) as port:
        yield port


def client_of(authority: Authority, *, ago: timedelta = timedelta(0)) -> KeyPair:
    """A client's key and its certificate of an hour."""
    key = certs.new_key()
    issued = authority.sign(make_request(key), NAME, hours=1, now=certs.utc_now() - ago)
    return KeyPair(certs.key_to_pem(key), issued.certificate)


def channel_to(port: int, root: Authority, pair: KeyPair | None) -> Any:
    key, certificate = (pair.key, pair.certificate) if pair else (None, None)
    credentials = grpc.ssl_channel_credentials(root.certificate, key, certificate)
    return grpc.secure_channel(f"127.0.0.1:{port}", credentials, OPTIONS)


def ask(channel: Any) -> str:
    """Ask the server who calls."""
    with channel:
        return bytes(channel.unary_unary(METHOD)(b"", timeout=20)).decode()


def refusal(channel: Any) -> Any:
    with pytest.raises(grpc.RpcError) as caught:
        ask(channel)
    return caught.value.code()


def test_a_client_gets_in_by_its_certificate(port: int, authority: Authority) -> None:
    assert ask(channel_to(port, authority, client_of(authority))) == NAME


def test_a_client_gets_in_on_an_event_loop(authority: Authority) -> None:
    async def go() -> bytes:
        pair = client_of(authority)
        credentials = grpc.ssl_channel_credentials(
            authority.certificate, pair.key, pair.certificate
        )
        async with serve_async(authority) as port:
            address = f"127.0.0.1:{port}"
            async with grpc.aio.secure_channel(address, credentials, OPTIONS) as channel:
                return bytes(await channel.unary_unary(METHOD)(b"", timeout=20))

    assert asyncio.run(go()).decode() == NAME


def test_without_a_certificate_nobody_gets_in(port: int, authority: Authority) -> None:
    assert refusal(channel_to(port, authority, None)) is grpc.StatusCode.UNAVAILABLE


def test_certificates_that_do_not_hold(
    port: int, authority: Authority, stranger: Authority
) -> None:
    pairs = {
        "of another authority": client_of(stranger),
        "ended an hour ago": client_of(authority, ago=timedelta(hours=2)),
        "not yet begun": client_of(authority, ago=-DAY),
        "a server's": authority.server_identity(),
        "made by a client": made_by(client_of(authority), authority),
    }
    for what, pair in pairs.items():
        assert refusal(channel_to(port, authority, pair)) is grpc.StatusCode.UNAVAILABLE, what


def made_by(signer: KeyPair, authority: Authority) -> KeyPair:
    """A certificate under which a client, playing the authority, has put its own signature."""
    key, name = certs.key_from_pem(signer.key, "signer"), f"fedloom {authority.federation}"
    fresh, now = certs.new_key(), certs.utc_now()
    builder = certs.template(certs.named("x"), certs.named(name), fresh.public_key(), now - DAY)
    leaf = builder.not_valid_after(now + DAY).sign(key, hashes.SHA256())
    return KeyPair(certs.key_to_pem(fresh), leaf.public_bytes(Encoding.PEM))


def test_plaintext_is_refused(port: int) -> None:
    assert refusal(grpc.insecure_channel(f"127.0.0.1:{port}")) is grpc.StatusCode.UNAVAILABLE


def test_a_client_refuses_a_server_of_another_authority(
    port: int, authority: Authority, stranger: Authority
) -> None:
    channel = channel_to(port, stranger, client_of(authority))
    assert refusal(channel) is grpc.StatusCode.UNAVAILABLE


def test_a_client_refuses_another_client_as_its_server(authority: Authority) -> None:
    """Whoever is enrolled could otherwise play the server to the others."""
    pair = client_of(authority)
    credentials = grpc.ssl_server_credentials([(pair.key, pair.certificate)])
    running = grpc.server(ThreadPoolExecutor(1))
    port = running.add_secure_port("127.0.0.1:0", credentials)
    running.start()
    try:
        assert refusal(channel_to(port, authority, pair)) is grpc.StatusCode.UNAVAILABLE
    finally:
        running.stop(None).wait()


def test_a_port_that_asks_for_no_certificate_names_nobody(authority: Authority) -> None:
    """As for enrolment: whoever gets to an enrolled client's method there is told to enrol."""
    with serve(authority, [], mutual=False) as port, channel_to(port, authority, None) as channel:
        with pytest.raises(grpc.RpcError, match="no client certificate: enrol first") as caught:
            ask(channel)
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
        assert dict(caught.value.trailing_metadata())[REASON] == "not-enrolled"


def calls_of_each_version(
    authority_folder: Path, folder: Path, floor: str
) -> tuple[list[str], str]:
    """Call a server process by TLS 1.3 and by 1.2: the versions that got through, what it said."""
    pair = client_of(Authority.open(authority_folder))
    script = str(Path(__file__).parent / "tls_server.py")
    environ = {k: v for k, v in os.environ.items() if k != "GRPC_SSL_CIPHER_SUITES"}
    through = []
    with subprocess.Popen(
        [sys.executable, script, str(authority_folder), floor],
        env=environ,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as server:
        assert server.stdout is not None
        port = int(server.stdout.readline())
        for version in (ssl.TLSVersion.TLSv1_3, ssl.TLSVersion.TLSv1_2):
            try:
                through.append(call(port, METHOD, tls_context(version, pair, folder)) or "none")
            except (ssl.SSLError, ConnectionError) as error:
                through.append(type(error).__name__)
        said, _ = server.communicate(timeout=60)
    return through, said


def test_an_older_tls_fails_in_the_handshake(tmp_path: Path) -> None:
    through, said = calls_of_each_version(tmp_path / "authority", tmp_path, "floor")
    assert through[0] == "TLSv1.3"
    assert through[1] in ("SSLEOFError", "SSLError", "ConnectionResetError")
    assert said == f"ok: {NAME}\n"


def test_an_older_tls_is_refused_call_by_call(tmp_path: Path) -> None:
    """Where gRPC was loaded before its floor could be set."""
    through, said = calls_of_each_version(tmp_path / "authority", tmp_path, "open")
    assert through == ["TLSv1.3", "TLSv1.2"]
    assert said == f"ok: {NAME}\ntls: the connection is TLSv1.2: TLS 1.3 only\n"


@pytest.mark.parametrize("mutual", [True, False])
def test_the_pinned_authority_is_fetched_from_any_port(authority: Authority, mutual: bool) -> None:
    with serve(authority, [], mutual=mutual) as port:
        assert fetch_authority("127.0.0.1", port, authority.pin) == authority.certificate
        assert fetch_authority("localhost", port, authority.pin) == authority.certificate


def test_a_wrong_pin_is_refused(port: int, stranger: Authority) -> None:
    with pytest.raises(IdentityError, match="not the server that the join token is of"):
        fetch_authority("127.0.0.1", port, stranger.pin)


def answering(answer: bytes) -> tuple[int, threading.Thread]:
    """A port at which somebody reads a little, answers once and hangs up."""
    listener = socket.create_server(("127.0.0.1", 0))

    def once() -> None:
        with listener, listener.accept()[0] as peer:
            peer.recv(4096)
            peer.sendall(answer)

    thread = threading.Thread(target=once)
    thread.start()
    return int(listener.getsockname()[1]), thread


def test_who_speaks_no_tls_is_no_server(authority: Authority) -> None:
    port, thread = answering(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    with pytest.raises(IdentityError, match=r"no TLS 1\.3 is spoken there") as caught:
        fetch_authority("127.0.0.1", port, authority.pin)
    thread.join()
    assert caught.value.code == "tls"


def test_nobody_answering_is_worth_another_try(authority: Authority) -> None:
    port, thread = answering(b"")
    with pytest.raises(TransferError, match=r"hung up|no answer") as hung_up:
        fetch_authority("127.0.0.1", port, authority.pin)
    thread.join()
    with pytest.raises(TransferError, match="no answer") as refused:
        fetch_authority("127.0.0.1", port, authority.pin)  # nobody listens there any more
    assert hung_up.value.retry_after == refused.value.retry_after == 5.0


def test_somebody_silent_is_not_waited_for(authority: Authority) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(TransferError, match="no answer"):
            fetch_authority("127.0.0.1", port, authority.pin, timeout=0.2)
