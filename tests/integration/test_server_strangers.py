"""Who does not belong to the federation is turned away, also in the middle of what they do."""

import socket
import ssl
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from live_server import OPTIONS, Device, Server, parts_of, refusal, serving
from raw_calls import call, tls_context
from waiting import until

from fedloom.protos import federation_pb2 as pb
from fedloom.protos.federation_pb2_grpc import EnrolmentStub
from fedloom.security import certificates as certs
from fedloom.security.authority import Authority, KeyPair
from fedloom.security.request import make_request

DENIED, STRANGER = "PERMISSION_DENIED", "UNAUTHENTICATED"
BIG = 1_000_000  # elements: a model of 4 MB


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("federation"), tls=True) as found:
        yield found


@pytest.fixture(autouse=True)
def _it_goes_on(server: Server) -> Iterator[None]:
    yield
    with server.channel(server.facts["enrol_port"], None) as channel:
        grpc.channel_ready_future(channel).result(10)
    assert server.process.poll() is None


def pair_of(authority: Authority, name: str, *, ago: timedelta = timedelta(0)) -> KeyPair:
    key = certs.new_key()
    issued = authority.sign(make_request(key), name, hours=1, now=certs.utc_now() - ago)
    return KeyPair(certs.key_to_pem(key), issued.certificate)


def shown(server: Server, pair: KeyPair | None) -> Device:
    return server._keep(Device("x", server.channel(server.facts["port"], pair), pair=pair))


def test_tokens_that_do_not_hold(server: Server) -> None:
    good, expired, used = server.token(), server.token(ttl_seconds=-1), server.token()
    revoked = server.token()
    with server.register() as register:
        register.tokens.revoke(revoked.id)
    server.enrol(used, name="first")
    forged = replace(good, secret="x" * 32)
    unknown = replace(good, id="nobody")
    codes = {
        "token-expired": [expired, revoked],
        "token-used": [used],
        "token-forged": [forged],
        "token-unknown": [unknown],
    }
    for code, tokens in codes.items():
        for token in tokens:
            found = refusal(lambda: server.enrol(token, name="second"))  # noqa: B023
            assert found == (DENIED, code)
    assert server.enrol(good, name="second").client == "second"  # nothing was used


def test_requests_that_do_not_hold(server: Server) -> None:
    token = server.token()
    server.enrol(server.token(), name="taken")
    expected: dict[tuple[str, str], list[dict[str, Any]]] = {
        ("FAILED_PRECONDITION", "protocol"): [{"protocol": 0}, {"protocol": 2}],
        ("INVALID_ARGUMENT", "csr"): [{"csr": b""}, {"csr": b"junk"}, {"csr": bytes(100_000)}],
        ("INVALID_ARGUMENT", "name"): [
            {"name": name} for name in ("", "   ", "taken", "x" * 201, "bell\x07")
        ],
    }
    for outcome, requests in expected.items():
        for request in requests:
            fields = {"name": "third", **request}
            assert refusal(lambda: server.enrol(token, **fields)) == outcome, request  # noqa: B023
    with server.channel(server.facts["enrol_port"], None) as channel:
        enrol = channel.unary_unary("/fedloom.v1.Enrolment/Enrol")
        unreadable = refusal(lambda: enrol(b"\xff\xff", timeout=10))
    assert unreadable == ("FAILED_PRECONDITION", "protocol")
    assert server.enrol(token, name="third").client == "third"


def test_certificates_that_do_not_hold(server: Server, tmp_path: Path) -> None:
    other = Authority.open(tmp_path / "other")
    for pair in (None, pair_of(other, "x"), pair_of(server.authority, "x", ago=timedelta(days=1))):
        device = shown(server, pair)  # the handshake fails
        assert refusal(device.check_in) == ("UNAVAILABLE", "")
    # of this authority, but nobody enrolled so; a server's own certificate is no client's
    assert refusal(shown(server, pair_of(server.authority, "x")).check_in) == (
        STRANGER,
        "not-enrolled",
    )
    assert refusal(shown(server, server.authority.server_identity()).check_in)[0] in (
        STRANGER,
        "UNAVAILABLE",
    )


def test_a_certificate_of_another_federation_of_the_same_authority(server: Server) -> None:
    theirs = replace(server.authority, federation="00000000-0000-0000-0000-000000000000")
    device = shown(server, pair_of(theirs, "x"))
    assert refusal(device.check_in) == (STRANGER, "wrong-federation")


def test_a_device_does_not_speak_to_a_server_of_another_authority(
    server: Server, tmp_path: Path
) -> None:
    other = Authority.open(tmp_path / "other").certificate
    pair = pair_of(server.authority, "x")
    channel = server.channel(server.facts["port"], pair, other)
    assert refusal(server._keep(Device("x", channel)).check_in) == ("UNAVAILABLE", "")


def test_calls_on_the_wrong_port(server: Server) -> None:
    ann = server.device("wrong-port")
    enrolment: Any = EnrolmentStub(ann.channel)
    not_here = ("UNIMPLEMENTED", "")
    assert refusal(lambda: enrolment.Enrol(pb.EnrolRequest(), timeout=10)) == not_here
    door = server._keep(Device("x", server.channel(server.facts["enrol_port"], ann.pair)))
    for act in (door.check_in, lambda: door.query("0" * 32), lambda: door.upload([])):
        assert refusal(act) == not_here


def test_plaintext_and_older_tls(server: Server, tmp_path: Path) -> None:
    for port in (server.facts["port"], server.facts["enrol_port"]):
        plain = server._keep(Device("x", grpc.insecure_channel(f"127.0.0.1:{port}")))
        assert refusal(plain.check_in) == ("UNAVAILABLE", "")
        with socket.create_connection(("127.0.0.1", port), 10) as line:
            line.sendall(b"GET / HTTP/1.0\r\n\r\n")
    pair = server.device("older").pair
    assert pair is not None
    older = tls_context(ssl.TLSVersion.TLSv1_2, pair, tmp_path)
    with pytest.raises((ssl.SSLError, ConnectionError)):
        call(server.facts["port"], "/fedloom.v1.Federation/CheckIn", older)


def test_tls_to_a_server_without(server: Server, tmp_path: Path) -> None:
    with serving(tmp_path) as plain:
        tls = grpc.ssl_channel_credentials(server.authority.certificate)
        target = f"127.0.0.1:{plain.facts['port']}"
        device = Device("x", grpc.secure_channel(target, tls, options=OPTIONS))
        assert refusal(device.check_in) == ("UNAVAILABLE", "")
        device.channel.close()
        good = plain.device("ann")
        assert good.check_in().HasField("wait")
        renewal = refusal(lambda: good.renew(b""))
        assert renewal == ("FAILED_PRECONDITION", "protocol")


def test_a_renewed_certificate_works_and_the_one_before_too(server: Server) -> None:
    device = server.device("renewing")
    key = certs.new_key()
    assert refusal(lambda: device.renew(b"junk")) == ("INVALID_ARGUMENT", "csr")
    pair = KeyPair(certs.key_to_pem(key), device.renew(make_request(key)))
    assert shown(server, pair).check_in().HasField("wait")
    assert device.check_in().HasField("wait")


def test_who_is_revoked_ends_at_once_and_comes_back_with_a_token(tmp_path: Path) -> None:
    with serving(tmp_path, tls=True, size=BIG, server={"patience": 0.1}) as server:
        ann, bob = server.device("ann"), server.device("bob")
        bob.check_in()
        task = ann.task()
        streams = Streams(ann, task)
        bob.task()
        with server.register() as register:
            register.revoke("ann")
        gone = (DENIED, "revoked")
        assert streams.end() == {"download": gone, "upload": gone}
        for act in (ann.check_in, lambda: ann.query(task.ticket), lambda: ann.renew(b"")):
            assert refusal(act) == gone
        assert ann.pair is not None
        assert refusal(shown(server, ann.pair).check_in) == gone  # over a new connection, too

        back = server.device("ann")
        assert back.check_in().HasField("task")
        assert refusal(ann.check_in) == gone  # the old certificate


class Streams:
    """A download and an upload of one device that are under way."""

    def __init__(self, device: Device, task: pb.Task) -> None:
        self.found: dict[str, tuple[str, str]] = {}
        self._go = threading.Event()
        self._device, self._task = device, task
        self._down = device.downloading(task.model.sha256)
        next(self._down)
        self._thread = threading.Thread(target=self._upload)
        self._thread.start()
        until(lambda: device.query(task.ticket).offset, "the first bytes")

    def _upload(self) -> None:
        parts = parts_of(self._task, bytes(64))

        def slowly() -> Iterator[pb.UploadPart]:
            yield from parts[:2]
            self._go.wait(20)
            yield from parts[2:]

        self.found["upload"] = refusal(lambda: self._device.upload(slowly()))

    def end(self) -> dict[str, tuple[str, str]]:
        """Go on with both; how they are ended."""
        self._go.set()
        self._thread.join(20)
        self.found["download"] = refusal(lambda: sum(len(chunk.data) for chunk in self._down))
        return self.found


def test_who_is_revoked_while_it_waits_for_work_gets_none(tmp_path: Path) -> None:
    with serving(tmp_path, tls=True, server={"min_clients": 3}) as server:
        ann = server.device("ann")
        found: list[tuple[str, str]] = []
        waiting = threading.Thread(target=lambda: found.append(refusal(lambda: ann.check_in(1.0))))
        waiting.start()
        time.sleep(0.2)
        with server.register() as register:
            register.revoke("ann")
        waiting.join(20)
        assert found == [(DENIED, "revoked")]
        others = [server.device(name) for name in ("bob", "cy")]
        for other in others:
            assert other.check_in(0.2).HasField("wait")  # ann does not count as one of three
        back = server.device("ann")
        assert back.check_in(0.5).WhichOneof("next") in ("task", "wait")
        served = [device.check_in(0.5).HasField("task") for device in (*others, back)]
        assert sum(served) == 2  # clients_per_round
