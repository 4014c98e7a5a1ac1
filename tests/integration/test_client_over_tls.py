"""A device joins by a token, works over mutual TLS, renews, and is turned away."""

import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from contract_server import Misbehaving, refuse

from fedloom.client.channel import Channel, Credentials
from fedloom.client.connection import Connection
from fedloom.client.enrol import find_folder, identity_for
from fedloom.client.settings import ClientSettings
from fedloom.client.start import take_part
from fedloom.client.stopping import Stop
from fedloom.core.errors import IdentityError, TransferError
from fedloom.protos import federation_pb2 as wire
from fedloom.protos import federation_pb2_grpc as stubs
from fedloom.security.authority import Authority
from fedloom.security.identity import Identity
from fedloom.security.tokens import JoinToken, new_id, new_secret

DONE = wire.Done(reason="all rounds are done")


@dataclass
class Secured(Misbehaving, stubs.EnrolmentServicer):
    """A server with an authority; each token is good once."""

    authority: Authority = field(kw_only=True)
    hours: float = 24.0
    tokens: dict[str, str] = field(default_factory=dict)
    port: int = 0
    enrol_port: int = 0
    enrolled: list[str] = field(default_factory=list)
    renewed: int = 0

    def token(self) -> JoinToken:
        made = JoinToken("127.0.0.1", self.enrol_port, new_id(), new_secret(), self.authority.pin)
        self.tokens[made.id] = made.secret
        return made

    def Enrol(self, request: wire.EnrolRequest, context: Any) -> wire.EnrolReply:  # noqa: N802
        known = not request.token_id and bool(self.enrolled)
        if not known and self.tokens.pop(request.token_id, None) != request.secret:
            refuse(context, "token-used", "this token was used: ask for a new one")
        name = self.enrolled[0] if known else request.name
        self.enrolled.append(name)
        issued = self.authority.sign(request.csr, name, hours=self.hours)
        return wire.EnrolReply(
            federation=self.authority.federation,
            client=name,
            certificate=issued.certificate,
            port=self.port,
        )

    def Renew(self, request: wire.RenewRequest, context: Any) -> wire.RenewReply:  # noqa: N802
        self.renewed += 1
        return wire.RenewReply(
            certificate=self.authority.sign(request.csr, self.enrolled[0], hours=24.0).certificate
        )


@contextmanager
def secured(authority: Authority) -> Iterator[Secured]:
    servicer, pair = Secured(authority=authority), authority.server_identity()
    servicer.answers.append(lambda _: wire.CheckInReply(done=DONE))
    own = [(pair.key, pair.certificate)]
    with ThreadPoolExecutor(8) as pool:
        working, enrolling = grpc.server(pool), grpc.server(pool)
        stubs.add_FederationServicer_to_server(servicer, working)
        stubs.add_EnrolmentServicer_to_server(servicer, enrolling)
        mutual = grpc.ssl_server_credentials(own, authority.certificate, require_client_auth=True)
        servicer.port = working.add_secure_port("127.0.0.1:0", mutual)
        one_way = grpc.ssl_server_credentials(own)
        servicer.enrol_port = enrolling.add_secure_port("127.0.0.1:0", one_way)
        working.start()
        enrolling.start()
        try:
            yield servicer
        finally:
            working.stop(None).wait()
            enrolling.stop(None).wait()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Secured]:
    with secured(Authority.open(tmp_path / "authority")) as made:
        yield made


def test_a_device_joins_works_and_is_known_at_the_next_start(
    server: Secured, tmp_path: Path
) -> None:
    given = ClientSettings(name="attic", join=str(server.token()), data="none.csv")
    assert take_part(given, root=tmp_path / "home") == 0
    folder = tmp_path / "home" / server.authority.federation
    assert json.loads((folder / "federation.json").read_text())["client"] == "attic"
    assert [p.name for p in (tmp_path / "home").iterdir()] == [folder.name]
    # the same command again, and one without the token: nobody enrols a second time
    assert take_part(given, root=tmp_path / "home") == 0
    assert take_part(ClientSettings(data="none.csv"), root=tmp_path / "home") == 0
    assert server.enrolled == ["attic"]
    assert len(server.check_ins) == 3


def test_a_new_token_makes_a_new_certificate(server: Secured, tmp_path: Path) -> None:
    first, second = server.token(), server.token()
    one = identity_for(tmp_path, first, name="a", root=tmp_path / "home")
    two = identity_for(tmp_path, second, name="a", root=tmp_path / "home")
    assert one.certificate != two.certificate
    assert one.key == two.key
    assert server.enrolled == ["a", "a"]


def test_a_used_token_and_no_identity(server: Secured, tmp_path: Path) -> None:
    token = server.token()
    server.tokens.clear()
    with pytest.raises(IdentityError, match="this token was used") as caught:
        identity_for(tmp_path, token, name="a", root=tmp_path)
    assert caught.value.code == "token-used"
    assert take_part(ClientSettings(join=str(token)), root=tmp_path / "home") == 2


def test_a_device_that_was_stopped_while_it_joined_goes_on(server: Secured, tmp_path: Path) -> None:
    token = server.token()
    identity_for(tmp_path, token, name="a", root=tmp_path / "home")
    (tmp_path / "token").unlink()  # the power went before it was written
    found = identity_for(tmp_path, token, name="a", root=tmp_path / "home")
    assert found.client == "a"
    assert server.enrolled == ["a"]


def test_another_server_gets_no_secret(server: Secured, tmp_path: Path) -> None:
    with secured(Authority.open(tmp_path / "other")) as other:
        token = server.token()
        astray = JoinToken("127.0.0.1", other.enrol_port, token.id, token.secret, token.pin)
        with pytest.raises(IdentityError, match="not the server that the join token is of"):
            identity_for(tmp_path / "device", astray, name="a", root=tmp_path)
        assert other.enrolled == []


def test_an_enrolled_device_does_not_speak_to_another_server(
    server: Secured, tmp_path: Path
) -> None:
    mine = identity_for(tmp_path / "device", server.token(), name="a", root=tmp_path)
    with secured(Authority.open(tmp_path / "other")) as other:
        credentials = Credentials(mine.authority, mine.key, mine.certificate)
        channel = Channel("127.0.0.1", other.port, credentials=credentials)
        with pytest.raises(TransferError, match="not of the authority that this device trusts"):
            channel.query_upload("a")
        channel.close()


def test_two_thirds_of_a_certificate(server: Secured, tmp_path: Path) -> None:
    stop = Stop()
    identity = identity_for(tmp_path / "device", server.token(), name="a", root=tmp_path)
    connection = Connection("127.0.0.1", server.port, stop=stop, identity=identity)
    now = datetime.now(UTC)
    assert not connection.renew(now)
    assert connection.renew(now + timedelta(hours=17))
    assert server.renewed == 1
    again = Identity.load(tmp_path / "device")
    assert again.certificate != identity.certificate
    assert connection.channel().query_upload("a").offset == 0  # with the new certificate
    stop.set()
    connection.close()


def test_an_ended_certificate_is_replaced_for_the_same_key(server: Secured, tmp_path: Path) -> None:
    server.hours = 1e-6
    stop = Stop()
    identity = identity_for(tmp_path / "device", server.token(), name="attic", root=tmp_path)
    server.hours = 24.0
    connection = Connection("127.0.0.1", server.port, stop=stop, identity=identity)
    assert connection.channel().check_in(wire.CheckInRequest(protocol=1)).done == DONE
    assert Identity.load(identity.folder).not_after > identity.not_after
    stop.set()
    connection.close()


def test_a_key_that_the_server_does_not_know_is_told_so(server: Secured, tmp_path: Path) -> None:
    server.hours = 1e-6
    stop = Stop()
    identity = identity_for(tmp_path / "device", server.token(), name="attic", root=tmp_path)
    server.enrolled.clear()
    connection = Connection("127.0.0.1", server.port, stop=stop, identity=identity)
    with pytest.raises(IdentityError, match="this token was used"):
        connection.channel()
    stop.set()
    connection.close()


def test_which_federation_is_meant(server: Secured, tmp_path: Path) -> None:
    home = tmp_path / "home"
    with pytest.raises(IdentityError, match="joined no federation; --join TOKEN"):
        find_folder("", None, root=home)
    token = server.token()
    assert find_folder("", token, root=home) == home / f"joining-{token.id}"
    assert find_folder("/x", token, root=home) == Path("/x")
    identity = identity_for(home / f"joining-{token.id}", token, name="a", root=home)
    assert identity.folder == home / server.authority.federation
    assert find_folder("", None, root=home) == identity.folder
    assert find_folder("", server.token(), root=home) == identity.folder
    (home / "other").mkdir()
    (home / "other" / "federation.json").write_text("{}")
    names = re.escape(", ".join(sorted((server.authority.federation, "other"))))
    with pytest.raises(IdentityError, match=f"federations {names}: which"):
        find_folder("", None, root=home)
